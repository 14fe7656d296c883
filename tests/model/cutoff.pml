/* SPDX-License-Identifier: MIT */
/*
 * A lane whose producer is suspected, or dies (portal-layout(5), "SESSIONS"; the
 * records are linux/portal_layout.h's).
 *
 * The producer commits up to N messages and may be killed at any step, or stand still and
 * go on. Its stores go through a FIFO buffer (TSO). Its kernel sees the end: no store
 * is possible any more (all have arrived), then dead (release). The consumer reads; where
 * it finds nothing it looks for the producer: dead means one more look and then the end
 * of the stream, and the lane goes to another session; suspicion, which may come at
 * any time, is an event and nothing else.
 *
 * Shown:
 *  - at the end of the stream all that was committed has been read, each once;
 *  - no store of the producer falls into a lane that is another's by then;
 *  - a producer that says itself that it has closed is read to its end, and no further.
 * A MUT_ name removes one thing that the proof needs.
 */
#define N	3

bool header[N + 1];		/* the lane: a record is there */
bool closed;			/* it said so itself, after its last */
bool dead;			/* in the session table */
bool reassigned;		/* the lane is another's */

chan buf = [2] of { byte };
byte committed, consumed;	/* for the assertions */
bool kill;
bool over;			/* no store is possible any more */

active proctype producer()
{
	byte n;
	{
		do
		:: n < N -> buf!n; n++
		:: n > 0 -> break
		od;
		buf!N	/* closed */
	} unless {
		kill
	};
	over = true
}

active proctype memory()
{
	byte n;
end:	do
	:: atomic { buf?n ->
		assert(!reassigned);
		if
		:: n == N -> closed = true
		:: else -> header[n] = true; committed++
		fi; n = 0 }
	od
}

/* The producer's kernel. */
active proctype kernel()
{
#ifdef MUT_DEAD_BEFORE_STOPPED
	over;
	dead = true;
	empty(buf)
#else
	over;
	empty(buf);
	dead = true
#endif
}

active proctype fate()
{
	if
	:: kill = true
	:: skip
	fi
}

active proctype consumer()
{
	byte pos;
	bool gone, suspected;

	do
	:: atomic { header[pos] -> pos++; consumed++ }
	:: !header[pos] ->
		if
		:: !suspected ->
			/* Its heart stood still for so long: an event. */
			suspected = true;
#ifdef MUT_END_ON_SUSPICION
			gone = true
#endif
		:: closed -> gone = true
#ifdef MUT_HEADER_BEFORE_DEAD
		:: dead -> break
#else
		:: dead -> gone = true
#endif
		fi;
		if
		:: gone && !header[pos] -> break
		:: else
		fi
	od;
	assert(consumed == committed);
	/* Reset, and given to the next: nothing of the old one may come any more. */
	reassigned = true
}
