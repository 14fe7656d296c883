/* SPDX-License-Identifier: MIT */
/*
 * The words of a channel by name that change hands (linux/portal_layout.h, "Channels by
 * name"; hub.c, hub_lane.c, hub_producer.c), where somebody was declared dead by mistake: he
 * goes on, and does not know it.
 *
 * Three hubs one after the other, the first of which may be taken for dead at any step;
 * three senders that want the one lane, the first of which has it, and may be taken for
 * dead, too. What lies in the lane: lane.pml.
 *
 * Shown:
 *  - of those that nobody takes for dead one receives at a time;
 *  - nobody takes a lane that another has who is not taken for dead and has not left;
 *  - a lane that was left is free again in the end.
 * A MUT_ name is a plain store, after a look, in place of one compare-and-swap.
 */
#define FREE	0
#define RESET	1
#define A	2
#define B	3
#define D	4
#define H1	5
#define H2	6
#define H3	7

byte consumer;
byte owner = A, gone_away;
bool dead[8];			/* in the tables, rightly or not */

/* For the assertions. */
byte receiver;			/* of those not taken for dead */
byte holder = A;
byte ended;

#define CAS(word, own, then) \
	atomic { \
		if \
		:: word == own -> word = then; ok = true \
		:: else -> ok = false \
		fi \
	}

#define STORE(word, own, then) \
	ok = (word == own); \
	if \
	:: ok -> word = then \
	:: else \
	fi

#ifdef MUT_CLOSE_BY_STORE
#define CLOSE	STORE
#else
#define CLOSE	CAS
#endif
#ifdef MUT_TAKE_BACK_BY_STORE
#define TAKE	STORE
#else
#define TAKE	CAS
#endif
#ifdef MUT_CLEAR_BY_STORE
#define CLEAR	STORE
#else
#define CLEAR	CAS
#endif
#ifdef MUT_FREE_BY_STORE
#define LET_GO	STORE
#else
#define LET_GO	CAS
#endif
#ifdef MUT_LEAVE_BY_STORE
#define SAY	STORE
#else
#define SAY	CAS
#endif

/* Sees whose it is after what was said before. */
inline leave(me)
{
	atomic {
		if
		:: holder == me -> holder = FREE
		:: else
		fi
	};
	do
	:: was = gone_away;
		if
		:: owner != me -> break
		:: else
		fi;
		SAY(gone_away, was, me);
		if
		:: ok -> break
		:: else
		fi
	od;
	ended++
}

inline take(me)
{
	atomic {
		owner == FREE -> owner = me;
		assert(holder == FREE || dead[holder]);
		holder = me
	}
}

active proctype sender_a() { byte was; bool ok; leave(A) }
active proctype sender_b() { byte was; bool ok; take(B); leave(B) }
active proctype sender_d() { byte was; bool ok; take(D); leave(D) }

active proctype mistakes()
{
	if :: dead[A] = true :: skip fi;
	if :: dead[H1] = true :: skip fi
}

inline reset_lane()
{
	was = gone_away;
	TAKE(owner, own, RESET);
	if
	:: ok ->
		CLEAR(gone_away, was, FREE);
		LET_GO(owner, RESET, FREE)
	/* Not its any more: nothing is touched, what stands there is looked at as if new. */
	:: else
	fi;
	own = FREE
}

inline hub(me)
{
	atomic {
		consumer == FREE || dead[consumer] ->
		assert(receiver == FREE || dead[receiver]);
		consumer = me;
		receiver = me
	};
	do
	:: own == FREE && owner != FREE -> own = owner
	/* The last: judge_lane(). */
	:: own == RESET || (own != FREE && (gone_away == own || dead[own] || owner != own)) -> reset_lane()
	/* The last one stays until all is done. */
	:: me != H3 || (ended == 3 && owner == FREE) -> break
	od;
	atomic {
		if
		:: receiver == me -> receiver = FREE
		:: else
		fi
	};
	CLOSE(consumer, me, FREE)
}

active proctype hub_1() { byte own, was; bool ok; hub(H1) }
active proctype hub_2() { byte own, was; bool ok; hub(H2) }
active proctype hub_3() { byte own, was; bool ok; hub(H3) }
