/* SPDX-License-Identifier: MIT */
/*
 * A row goes to another machine, whose heart stands still, and whose observer dies half-way
 * (portal-layout(5), "Joining", "PEERS", reason; portal_slot_take() in drivers/core/peers.c,
 * make_claim() in portald; for heard() and the rest see suspect.pml).
 *
 * The row has the reason of a verdict on the claim before. Who claims it takes that away, before
 * it is alive, so before anybody listens to its heart; a warden may give his reason as soon as
 * the claim stands.
 *
 * Shown: when its heart is heard again, no suspicion of silence stays, whole or half stored; a
 * warden's does. A MUT_ name removes one thing that the proof needs.
 */
#define NONE	0
#define EXITED	1
#define CUT	2
#define SILENT	5
#define OLD	1
#define NEW	2

byte reason, suspect, claim = OLD;
bool alive, warned, listened, judged;

active proctype joiner()
{
	byte was;

	if
	:: reason = NONE
	:: reason = EXITED
	:: reason = SILENT
	fi;
	if
	:: suspect = OLD
	:: skip
	fi;
#ifdef MUT_READ_LATE
	claim = NEW;
	was = reason;
#else
	was = reason;
	claim = NEW;
#endif
#ifndef MUT_NOT_RESET
	atomic { reason = (reason == was -> NONE : reason) };
#endif
	alive = true
}

/* Dies at any moment after the suspicion, or lives. */
active proctype listener()
{
	bool swapped;
	byte at;

	alive;
	at = suspect;
	if
	:: at != NEW ->
		atomic { swapped = (suspect == at); suspect = (swapped -> NEW : suspect) };
		if
		:: swapped -> atomic { reason = (reason == NONE -> SILENT : reason) }
		:: skip
		fi
	:: else
	fi;
	listened = true
}

active proctype warden()
{
	if
	:: claim == NEW;
		warned = true;
		reason = CUT;
		suspect = NEW;
		reason = CUT
	:: skip
	fi;
	judged = true
}

/* The heart beats again. */
active proctype hearer()
{
	byte was;

	listened && judged;
	was = reason;
	if
	:: was == NONE || was == SILENT ->
		reason = NONE;
		suspect = (suspect == NEW -> 0 : suspect)
	:: else
	fi;
	assert(warned == (suspect == NEW))
}
