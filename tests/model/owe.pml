/* SPDX-License-Identifier: MIT */
/*
 * VMP_MORE: a record is published and nobody is rung; "owe" says so, and either thread of
 * the sending side may pay: the sender by vmp_flush(), the receiver of the other direction
 * before it sleeps (chan_flush(); userspace/lib/channel.h, message.c).
 *
 * Memory is weaker than in wake.pml: each word has a store buffer of its own, so that
 * stores to different words become visible in any order (arm64). A release store waits
 * for those before it; an exchange and a fence are in memory when they are done.
 *
 * Shown: when the last flush is done and nobody stores any more, the other machine's
 * receiver does not sleep with a message in its lane. A MUT_ name removes one thing that
 * the proof needs.
 */
#define N	2	/* messages */

byte pub, owe, armed, rung;
bool bell;
bool sent_all;

chan pbuf = [2] of { byte };	/* the sender's stores of pub */
chan obuf = [2] of { byte };	/* ... and of owe */
chan none = [1] of { byte };	/* of who has stored nothing */

/* chan_notify(): of the thread that has paid. */
inline notify(fenced)
{
	empty(fenced);
	a = armed;
	if
	:: a != 0 && a != rung -> rung = a; bell = true
	:: else
	fi
}

/* chan_flush() */
inline flush(fenced)
{
	if
	:: owe == 0
	:: else ->
#ifndef MUT_PAID_BY_NOBODY
		atomic { was = owe; owe = 0 };
#else
		owe = 0;
		was = 0;
#endif
		if
		:: was -> notify(fenced)
		:: else
		fi
	fi
}

active proctype sender()
{
	byte n, a, was;

	do
	:: n == N -> break
	:: n < N ->
		n++;
		pbuf!n;
#ifndef MUT_OWE_UNORDERED
		empty(pbuf);		/* a release store */
#endif
		obuf!1
	od;
	/* Its own store of owe is what it loads. */
	empty(obuf);
	flush(pbuf);
	sent_all = true
}

/* The other thread of this side, about to sleep for messages of its own. */
active proctype other()
{
	byte a, was, i;

	do
	:: i == 2 -> break
	:: i < 2 -> i++; flush(none)
	od
}

active proctype receiver()
{
	byte got, epoch;

	do
	:: got == N -> break
	:: got < N ->
		if
		:: pub > got -> got = pub
		:: else ->
			epoch++;
			armed = epoch;	/* and a full fence */
			if
			:: pub > got
			:: else -> bell; bell = false
			fi;
			armed = 0
		fi
	od
}

active proctype drain()
{
	byte v;
end:	do
	:: atomic { pbuf?v -> pub = v }
	:: atomic { obuf?v -> owe = v }
	od
}
