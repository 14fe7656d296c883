/* SPDX-License-Identifier: MIT */
/*
 * A lane of a channel by name (linux/portal_layout.h, "Channels by name"; hub_lane.c,
 * hub_producer.c): who has it, who reads it to its end, who gets it next.
 *
 * Two senders want the one lane, the first of them twice; each commits N messages,
 * if it meets a hub; one of them may die at any step. The first hub may die at any step; the second
 * one takes over when that is proven. All stores here are release stores, all loads acquire
 * loads, so memory is shown as it is stored (what a death makes visible: cutoff.pml).
 * The handshake is channels' own (handshake.pml), in the words that matter here.
 *
 * Shown:
 *  - nobody stores to a lane, or has stored what arrives there, that is another's;
 *  - all that was committed is consumed, once, in its order, by one hub or the other;
 *  - what both have shown to their users, the second has flagged;
 *  - nobody waits for ever for somebody who will not come.
 * A MUT_ name removes one thing that the proof needs.
 */
#define N	1

#define FREE	0
#define RESET	1
#define A	2
#define B	3

byte owner, gone_away;
byte inc0, ack0, ready0, live;	/* the hub's side */
byte inc1, ack1, ready1;	/* the sender's */
byte rec[N];			/* the ring: tagged with the pair's nonce */
byte consumed, shown;
bool dead[4];			/* in the session table */
bool hub_gone;			/* the first hub is, or through */
bool kill_a, kill_b, kill_hub;
byte ended;			/* senders that are through, or dead */

/* Incarnations are never used twice: senders' are 1 to 3, hubs' 1 and 5 and on. */
#define NONCE(x, y)	((x) * 4 + (y))

/* For the assertions, by sender. */
byte holder;			/* who may store to the lane */
byte committed, done;		/* in the present pair */
byte seen;			/* bits: shown to a user, unflagged */

inline sender_once(me, number)
{
	atomic {
		owner == FREE -> owner = me;
		assert(holder == FREE);
		assert(live == 0 && inc0 == 0);
		holder = me
	};
	d_step { ready1 = 0; ack1 = 0; y = number; x = 0; told = false; bound = false; n = 0 };
	inc1 = y;
	do
	:: !bound && inc0 != 0 && inc0 != x ->
		d_step { x = inc0; told = false; ready1 = 0; ack1 = x }
	:: !bound && !told && x != 0 && ack0 == y && inc0 == x ->
		d_step { ready1 = NONCE(x, y); told = true; rec[0] = 0; assert(holder == me) }
	/* Two loads, in this order. */
	:: !bound && told && inc0 == x ->
		if
		:: ready0 == NONCE(x, y) -> bound = true
		:: else
		fi
#ifndef MUT_NO_HANDED_OVER
	:: !bound && told && inc0 == 0 && live == NONCE(x, y) -> break
#endif
	:: bound && inc0 != x -> break
	:: bound && live == NONCE(x, y) && n < N ->
		atomic {
			assert(holder == me);
			rec[n] = NONCE(x, y);
			committed++; n++;
			if
			:: n < N -> rec[n] = 0
			:: else
			fi
		}
	/* It has said all that it wanted to. Before it met anybody it waits for that. */
	:: bound -> break
	od;
	atomic { holder = FREE; gone_away = me }
}

/* Dead: then no store of it comes any more, and others are told. */
inline bury(me)
{
	atomic {
		if
		:: holder == me -> holder = FREE
		:: else
		fi;
		dead[me] = true
	}
}

active proctype sender_a()
{
	byte x, y, n; bool told, bound;
	{
		sender_once(A, 1);
		sender_once(A, 2)
	} unless { kill_a };
	bury(A);
	ended++
}

active proctype sender_b()
{
	byte x, y, n; bool told, bound;
	{ sender_once(B, 3) } unless { kill_b };
	bury(B);
	ended++
}

active proctype fate()
{
	/* Both are more states than it is worth. */
	if
	:: kill_a = true
	:: kill_b = true
	:: skip
	fi
}

#ifdef MUT_RESET_ON_SUSPICION
#define OVER	true
#else
#define OVER	(gone_away == own || dead[own])
#endif

/* One record, if there is one, to the user; nothing is consumed before he is done. */
inline read_one()
{
#ifdef MUT_CONSUMED_BEFORE_SHOWN
	consumed = pos + 1;
#endif
#ifndef MUT_SHOWN_LATER
	shown = pos + 1;
#endif
	d_step {
		if
		:: pos >= again -> assert(!(seen & (1 << pos))); seen = seen | (1 << pos)
		:: else
		fi
	};
#ifdef MUT_SHOWN_LATER
	shown = pos + 1;
#endif
	atomic {
#ifndef MUT_CONSUMED_BEFORE_SHOWN
		consumed = pos + 1;
#endif
		assert(done == pos); done++
	};
	pos++
}

/* (That owner and gone_away go on by compare-and-swap alone: hub.pml; inc0, live: zombie.pml.) */
inline reset_lane()
{
#ifndef MUT_NO_RESET_STATE
	owner = RESET;
#endif
	inc0 = 0;
#ifdef MUT_FREE_BEFORE_EMPTY
	gone_away = 0; owner = FREE;
	live = 0;
#else
#ifndef MUT_LIVE_STAYS
	live = 0;
#endif
	/* All was read. */
	d_step { assert(committed == done); committed = 0; done = 0; seen = 0 };
#ifdef MUT_LEFT_CLEARED_LAST
	owner = FREE;
	gone_away = 0
#else
	gone_away = 0;
	owner = FREE
#endif
#endif
}

inline open_lane()
{
	/* Nobody looks at the rest while this is so. */
	inc0 = 0;
	d_step { ready0 = 0; live = 0; ack0 = 0; consumed = 0; shown = 0; last++; x = last; nonce = 0; pos = 0; again = 0; y = 0; readied = false };
	inc0 = x
}

inline inherit()
{
	nonce = live; pos = consumed; again = shown;
#ifdef MUT_AGAIN_NOT_KEPT
	again = 0;
#endif
	inc0 = 0
}

/* A lane that has an owner, from there to its end; for ever, while senders come. */
inline serve()
{
	do
	:: ended == 2 && owner == FREE -> break
	:: owner == RESET -> reset_lane()
	:: owner > RESET ->
		own = owner;
		if
#ifndef MUT_NOTHING_INHERITED
		:: live != 0 -> inherit()
#endif
		:: else -> open_lane()
		fi;
		do
		/* The handshake. */
		:: nonce == 0 && inc1 != 0 && inc1 != y -> d_step { y = inc1; ready0 = 0; ack0 = y; readied = false }
		:: nonce == 0 && y != 0 && ack1 == x && !readied -> ready0 = NONCE(x, y); readied = true
		:: nonce == 0 && y != 0 && readied && ready1 == NONCE(x, y) ->
			nonce = NONCE(x, y); live = nonce
		:: nonce != 0 && pos < N && rec[pos] == nonce -> read_one()
#ifdef MUT_NO_LAST_LOOK
		:: !(nonce != 0 && pos < N && rec[pos] == nonce) -> OVER; break
#else
		:: OVER ->
			if
			:: nonce != 0 && pos < N && rec[pos] == nonce -> read_one()
			:: else -> break
			fi
#endif
		od;
		reset_lane();
		d_step { nonce = 0; readied = false; y = 0; x = 0; pos = 0; again = 0; own = 0 }
	od
}

active proctype first_hub()
{
	byte own, x, y, nonce, pos, again, last = 0; bool readied;
	{ serve() } unless { kill_hub };
	hub_gone = true
}

active proctype fate_of_hub()
{
	if :: kill_hub = true :: skip fi
}

active proctype second_hub()
{
	byte own, x, y, nonce, pos, again, last = 4; bool readied;

	hub_gone;
	serve();
	assert(committed == done)
}
