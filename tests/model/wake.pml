/* SPDX-License-Identifier: MIT */
/*
 * The wake contract (linux/portal_layout.h, "Sleep"; userspace/lib/wait.c), in both
 * directions: a receiver that sleeps for messages, a sender that sleeps for room.
 *
 * Weak memory: each side has a store buffer, a FIFO that drains whenever it likes
 * (TSO, the order of x86). On weaker machines stores may also pass each other: those
 * of records, positions and owe are releases; ask and the armed words are relaxed, with
 * a full fence behind them before anything depends on their order. A full
 * fence waits until the buffer is empty.
 *
 * Shown: no one sleeps for ever while there is something for him (an invalid end
 * state otherwise); an arm gets at most one ring. Sleeps have no timeout here:
 * trusted doorbells. A MUT_ name removes one thing that the proof needs.
 */
#define N	4	/* messages */
#define CAP	2	/* messages that fit */
#define LAZY	2	/* the receiver gives back room by as many; see vmpr_max() */

byte pub, tx_armed, ask;	/* written by the sender */
byte cons, rx_armed;		/* written by the receiver */
bool bell_s, bell_r;		/* an event waits for the sender, the receiver */
byte arms_s, arms_r, rings_s, rings_r;

mtype = { PUB, TX_ARMED, ASK, CONS, RX_ARMED };
chan sbuf = [3] of { mtype, byte };
chan rbuf = [3] of { mtype, byte };

inline fence_s() { empty(sbuf) }
inline fence_r() { empty(rbuf) }

/* The sender has published: does the receiver sleep? */
inline notify_r()
{
#ifndef MUT_NO_FENCE_AFTER_SEND
	fence_s();
#endif
	a = rx_armed;
	if
	:: a != 0 && a != rung ->
		rung = a;
		atomic { bell_r = true; rings_r++; assert(rings_r <= arms_r) }
	:: else
	fi;
	owe = false
}

inline ring_s()
{
	a = tx_armed;
	if
	:: a != 0 && a != rung ->
		rung = a;
		atomic { bell_s = true; rings_s++; assert(rings_s <= arms_s) }
	:: else
	fi
}

active proctype sender()
{
	byte sent, epoch, rung, a;
	bool owe;

	do
	:: sent == N -> break
	:: sent < N ->
		if
		:: sent - cons < CAP ->
			sent++;
#ifndef MUT_NOTIFY_BEFORE_PUBLISH
			sbuf!PUB,sent;
#endif
			owe = true;
			if
			:: notify_r()
			:: skip		/* VMP_MORE */
			fi;
#ifdef MUT_NOTIFY_BEFORE_PUBLISH
			sbuf!PUB,sent
#endif
		:: else ->
#ifndef MUT_NO_FLUSH_BEFORE_WAIT
			if
			:: owe -> notify_r()
			:: else
			fi;
#endif
			sbuf!ASK,(sent + 1 - CAP);
#ifndef MUT_SAME_EPOCH
			epoch++;
#else
			epoch = 1;
#endif
			arms_s++;
			sbuf!TX_ARMED,epoch;
#ifndef MUT_NO_FENCE_AFTER_ARM_TX
			fence_s();
#endif
			if
#ifndef MUT_NO_LAST_LOOK
			:: sent - cons < CAP
#endif
			:: else -> bell_s; bell_s = false
			fi;
			sbuf!TX_ARMED,0
		fi
	od;
	if
	:: owe -> notify_r()
	:: else
	fi
}

active proctype receiver()
{
	byte got, published, epoch, rung, a;
#ifdef MUT_LOOK_BEFORE_ARM
	bool looked;
#endif
	bool now, again;

	do
	:: got == N -> break
	:: got < N ->
		if
		:: pub > got ->
			got++;
			if
			:: got - published >= LAZY || (ask > published && ask <= got) ->
				published = got;
				rbuf!CONS,got;
#ifndef MUT_NO_FENCE_AFTER_RELEASE
				fence_r();
#endif
				ring_s()
			:: else
			fi
		:: else ->
			now = published < got;
			if
			:: now -> published = got; rbuf!CONS,got
			:: else
			fi;
			/*
			 * Perhaps it dies here, and a successor takes its place: its
			 * numbers must be others (they are random), for the sender
			 * remembers which it rang for.
			 */
			if
			:: !again && epoch > 0 ->
				again = true;
#ifdef MUT_NUMBERS_BEGIN_ANEW
				epoch = 0
#endif
			:: skip
			fi;
#ifdef MUT_LOOK_BEFORE_ARM
			looked = pub > got;
#endif
			epoch++;
			arms_r++;
			rbuf!RX_ARMED,epoch;
#ifndef MUT_NO_FENCE_AFTER_ARM_RX
			fence_r();
#endif
			if
			:: now -> ring_s()
			:: else
			fi;
			if
#ifdef MUT_LOOK_BEFORE_ARM
			:: looked
#else
			:: pub > got
#endif
			:: else -> bell_r; bell_r = false
			fi;
			rbuf!RX_ARMED,0
		fi
	od
}

active proctype drain_s()
{
	byte v;
end:	do
	:: atomic { sbuf?PUB,v -> pub = v }
	:: atomic { sbuf?TX_ARMED,v -> tx_armed = v }
	:: atomic { sbuf?ASK,v -> ask = v }
	od
}

active proctype drain_r()
{
	byte v;
end:	do
	:: atomic { rbuf?CONS,v -> cons = v }
	:: atomic { rbuf?RX_ARMED,v -> rx_armed = v }
	od
}
