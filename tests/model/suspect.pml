/* SPDX-License-Identifier: MIT */
/*
 * A machine is suspect because it is silent, its heart is heard again, and at that moment a
 * warden makes it a suspect for a reason of his own (portal-layout(5), "PEERS", reason;
 * portal_heard() and portal_pronounce() in drivers/core/watch.c, heard() and pronounce() in
 * portald).
 *
 * Two machines may hear the heart, and one may find it silent once more. The warden swaps his
 * reason for what stands there (which is his own as long as the claim stands: see reason.pml);
 * swaps are in memory when they are done, and what was stored before is, too.
 *
 * Shown: when all are done, the warden's suspicion stands, with his reason; and without a
 * warden, none of silence stays behind a heart that was heard. A MUT_ name removes one thing
 * that the proof needs.
 */
#define NONE	0
#define CUT	2
#define SILENT	5
#define CLAIM	1
#define HEARERS	2

byte reason = SILENT, suspect = CLAIM;
byte done;
bool warned;

chan buf = [1] of { byte };	/* the warden's store of reason */

active [HEARERS] proctype hearer()
{
	byte was;
	bool swapped;

	was = reason;
	if
	:: was != NONE && was != SILENT -> goto out
	:: was == SILENT ->
		atomic { swapped = (reason == SILENT); reason = (swapped -> NONE : reason) };
		if
		:: !swapped -> goto out
		:: else
		fi
	:: else
	fi;
	atomic { swapped = (suspect == CLAIM); suspect = (swapped -> 0 : suspect) };
	if
	:: !swapped -> goto out
	:: else
	fi;
#ifndef MUT_NOT_PUT_BACK
	was = reason;
	if
	:: was != NONE && was != SILENT ->
		atomic { suspect = (suspect == 0 -> CLAIM : suspect) }
	:: else
	fi;
#endif
out:	done++
}

/*
 * Its last look at the heart was before. It gives its reason where there is none: one of an
 * earlier claim is gone before the life of this one (portal_slot_take()), so another is the
 * warden's, who may not have come to the suspicion yet.
 */
active proctype listener()
{
	bool swapped;
	byte was;

	if
	:: was = reason;
		atomic { swapped = (suspect == 0); suspect = (swapped -> CLAIM : suspect) };
#ifndef MUT_ANY_REPLACED
		was = NONE;
#endif
		if
		:: swapped -> atomic { reason = (reason == was -> SILENT : reason) }
		:: else
		fi
	:: skip
	fi;
	done++
}

active proctype warden()
{
	bool swapped;
	byte was;

	if
	:: warned = true;
#ifdef MUT_STORED
		/* And no fence: it waits in a buffer. */
		buf!CUT;
#else
		do
		:: was = reason;
			atomic { swapped = (reason == was); reason = (swapped -> CUT : reason) };
			if
			:: swapped -> break
			:: else
			fi
		od;
#endif
		if
		:: suspect == CLAIM
		:: else -> atomic { empty(buf); suspect = CLAIM }
		fi
	:: skip
	fi;
	done++
}

active proctype drain()
{
	byte v;
end:	do
	:: atomic { buf?v -> reason = v }
	od
}

active proctype check()
{
	done == HEARERS + 2 && empty(buf);
	assert(!warned || (suspect == CLAIM && reason == CUT))
}
