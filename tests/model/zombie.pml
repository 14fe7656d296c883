/* SPDX-License-Identifier: MIT */
/*
 * A side of a lane whose owner was declared dead by mistake, and goes on (portal-layout(5),
 * "Channels by name"; wait_arm() and wait_disarm() in wait.c, lease_say() in channel.c).
 *
 * The zombie sleeps and wakes, and says a word of its own; at any step, for however long, it
 * stands still. Its successor takes the side, says the same word, meets a partner, and sleeps
 * for its messages. Both have a store buffer (TSO), which a compare-and-swap drains, too.
 *
 * Shown:
 *  - the successor does not sleep for ever while there is something for it;
 *  - what it has said stands.
 * A MUT_ name removes one thing that the proof needs.
 */
#define N	2	/* messages; sleeps of the zombie */

#define ZOMBIE	1
#define NEXT	2

/* Numbers of sleeps: random at first, so that they differ. */
#define OF_ZOMBIE	0
#ifdef MUT_SAME_NUMBERS
#define OF_NEXT	0
#else
#define OF_NEXT	10
#endif

byte lease = ZOMBIE;		/* consumer; the lane's owner */
byte armed;
byte word = ZOMBIE;		/* incarnation, say; 0: nobody */
byte pub;
bool bell;

chan zbuf = [1] of { byte };
chan nbuf = [1] of { byte };

#define CAS(buf, what, own, then) \
	atomic { \
		empty(buf) -> \
		if \
		:: what == own -> what = then; ok = true \
		:: else -> ok = false \
		fi \
	}

#define STORE(buf, what, own, then) what = then; ok = true

#ifdef MUT_DISARM_BY_STORE
#define CLEAR	STORE
#else
#define CLEAR	CAS
#endif
#ifdef MUT_SAY_BY_STORE
#define SAY	STORE
#else
#define SAY	CAS
#endif

active proctype zombie()
{
	byte n, was; bool ok;

	do
	:: n < N && lease == ZOMBIE ->
		n++;
		zbuf!(OF_ZOMBIE + n);
#ifndef MUT_NO_FENCE_AFTER_ARM
		empty(zbuf);
#endif
		/* It is awake again. */
		if
#ifdef MUT_DISARM_UNLOOKED
		:: true
#else
		:: lease == ZOMBIE
#endif
			-> CLEAR(zbuf, armed, OF_ZOMBIE + n, 0)
		:: lease != ZOMBIE -> break
		fi
	:: n == N || lease != ZOMBIE -> break
	od;
#ifdef MUT_SAY_LOOKS_FIRST
	if
	:: lease == ZOMBIE -> was = word; SAY(zbuf, word, was, 0)
	:: else
	fi
#else
	was = word;
	if
	:: lease == ZOMBIE -> SAY(zbuf, word, was, 0)
	:: else
	fi
#endif
}

active proctype successor()
{
	byte n, got, was; bool ok;

	/* The table says of the zombie that it is dead. */
	CAS(nbuf, lease, ZOMBIE, NEXT);
	was = armed;
	CAS(nbuf, armed, was, 0);
	do
	:: was = word; CAS(nbuf, word, was, NEXT);
		if
		:: ok -> break
		:: else
		fi
	od;
	do
	:: got == N -> break
	:: got < N && pub > got -> got++; assert(word == NEXT)
	:: got < N && pub == got ->
		n++;
		nbuf!(OF_NEXT + n);
		empty(nbuf);
		if
		:: pub > got
		:: pub == got -> bell; bell = false
		fi;
		CAS(nbuf, armed, OF_NEXT + n, 0)
	od;
	assert(word == NEXT)
}

/* It has met the successor, and nobody else. */
active proctype partner()
{
	byte n, a, rung;

	word == NEXT;
	do
	:: n < N ->
		n++;
		pub = n;
		a = armed;
		if
		:: a != 0 && a != rung -> rung = a; bell = true
		:: else
		fi
	:: else -> break
	od
}

active proctype drain_zombie()
{
	byte v;
end:	do
	:: atomic { zbuf?v -> armed = v; v = 0 }
	od
}

active proctype drain_successor()
{
	byte v;
end:	do
	:: atomic { nbuf?v -> armed = v; v = 0 }
	od
}
