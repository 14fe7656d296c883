/* SPDX-License-Identifier: MIT */
/*
 * A row goes to another machine, whose heart stands still, and whose observer dies half-way
 * (portal-layout(5), "Joining", "PEERS", reason; portal_slot_take() in drivers/core/peers.c,
 * portal_pronounce() and portal_fence() in drivers/core/watch.c, pronounce() and make_claim() in
 * portald; for heard() and the rest see suspect.pml).
 *
 * The row has the reason of a verdict on the claim before. Who claims it takes that away, before
 * it is alive, so before anybody listens to its heart. A warden may give his reason as soon as the
 * claim stands; if there is a verdict by then, the claim is given up for another. Others judge the claim before, for the first time or once more: one is overtaken
 * at any step, one dies at any.
 *
 * Shown: when its heart is heard again, no suspicion of silence stays, whole or half stored,
 * unless that one died with his reason in the row; a warden's does. A MUT_ name removes one thing
 * that the proof needs.
 */
#define NONE	0
#define EXITED	1
#define CUT	2
#define FENCED	4
#define SILENT	5
#define OLD	1
#define NEW	2

byte reason, suspect, dead, claim = OLD;
bool alive, joined, warned, listened, died;
byte judged;

#define CAS(word, from, to) \
	atomic { swapped = (word == from); word = (swapped -> to : word) }

/* Before anybody does anything. */
init {
	atomic {
		if
		:: reason = NONE
		:: reason = EXITED
		:: reason = SILENT
		fi;
		if
		:: suspect = OLD
		:: skip
		fi;
		if
		:: dead = OLD
		:: skip		/* it leaves, or it was reset and is the next one itself */
		fi;
		run joiner();
		run listener();
		run warden(NEW, CUT);
		run warden(OLD, FENCED);
		run hearer()
	}
}

proctype joiner()
{
	bool swapped;
	byte was;

#ifdef MUT_READ_EARLY
	was = reason;
	claim = NEW;
#else
	claim = NEW;
	was = reason;
#endif
#ifndef MUT_NOT_RESET
	if
	:: was != NONE ->
		CAS(reason, was, NONE);
#ifndef MUT_NOT_LOOKED
		if
		:: swapped && (suspect == NEW || dead == NEW) -> claim = 0; goto out
		:: else
		fi
#endif
	:: else
	fi;
#endif
	alive = true;
out:	joined = true
}

/* Dies at any moment after the suspicion, or lives. */
proctype listener()
{
	bool swapped;
	byte at;

	joined;
	if
	:: !alive -> goto out
	:: else
	fi;
	at = suspect;
	if
	:: at != NEW ->
		CAS(suspect, at, NEW);
		if
		:: swapped -> CAS(reason, NONE, SILENT)
		:: skip
		fi
	:: else
	fi;
out:	listened = true
}

proctype warden(byte c, why)
{
	bool swapped, given, to_dead;
	byte was, at;

	if
	:: claim == c -> warned = (c == NEW -> true : warned)
	:: goto out
	fi;
	if
	:: c == OLD -> to_dead = true
	:: skip
	fi;
again:	was = reason;
	if
	:: claim != c -> goto out
	:: else
	fi;
	given = false;
	if
	:: was == why
	:: else ->
#ifdef MUT_ANY_OVERWRITTEN
		reason = why; swapped = true;
#else
		CAS(reason, was, why);
#endif
		if
		:: !swapped -> goto again
		:: else -> given = true
		fi
	fi;
	if
	:: c == OLD -> died = true; goto out
	:: skip
	fi;
	do
	:: at = (to_dead -> dead : suspect);
		if
		:: claim != c ->
			if
#ifdef MUT_PUT_BACK
			:: given -> CAS(reason, why, was)
#else
			:: given -> CAS(reason, why, NONE)
#endif
			:: else
			fi;
			goto out
		:: else
		fi;
		if
		:: at == c -> break
		:: else
		fi;
		if
		:: to_dead -> CAS(dead, at, c)
		:: else -> CAS(suspect, at, c)
		fi;
		if
		:: swapped -> break
		:: else
		fi
	od;
#ifndef MUT_GIVEN_ONCE
	if
#ifdef MUT_ANY_WILL_DO
	:: reason == NONE || reason == SILENT -> goto again
#else
	:: reason != why -> goto again
#endif
	:: else
	fi;
#endif
out:	judged++
}

/* The heart beats again. */
proctype hearer()
{
	byte was;

	listened && judged == 2;
	was = reason;
	if
	:: was == NONE || was == SILENT ->
		reason = NONE;
		suspect = (suspect == NEW -> 0 : suspect)
	:: else
	fi;
	assert(!alive || !warned || suspect == NEW);
	assert(!alive || warned || died || suspect != NEW)
}
