/* SPDX-License-Identifier: MIT */
/*
 * The handshake of a channel (linux/portal_layout.h; userspace/lib/handshake.c):
 * either end is opened, killed at any point, closed, and opened anew.
 *
 * Each word has one writer and is read and written in one step; the steps of the two
 * sides interleave in every way. (Stores of one side become visible in program order:
 * they are release stores.) A process is one incarnation of a side: unique per
 * side; while it is below INCS it may die, and the next one is opened. A lane is a list of up to RECS records;
 * a record is the nonce that its writer used; a nonce is a pair of incarnations.
 *
 * Shown:
 *  - a lane is reset only while the other side's process, if it lives, reads no older
 *    pair and has not begun with this one (no record is lost, none is read anew);
 *  - a record that is accepted was written by the incarnation that the reader is bound
 *    to, for this pair;
 *  - whoever is told of a reset or a close has read all that this peer committed;
 *  - a consumed position that goes back is seen by nobody who takes it for a lie;
 *  - when nobody dies any more both are connected, or one of them was told of a reset
 *    and opens anew (else: invalid end state).
 * A MUT_ name removes one thing that the proof needs.
 */
#ifndef INCS
#define INCS	2
#endif
#define RECS	1	/* records that one incarnation sends */
#define STALE	7	/* an incarnation long dead */
#define NONCE(s, x, y)	((s) == 0 -> (x) * 8 + (y) : (y) * 8 + (x))

typedef Side {
	byte inc, ack, ready, live, closed, consumed;
};
Side sh[2];		/* shared words; [s] written by side s */

typedef Lane {
	byte rec[RECS + 1];	/* nonces; 0: header not there */
};
Lane lane[2];		/* [s] written by side s */

/* For the assertions. */
byte bound[2];		/* the peer incarnation that side s's living process reads, 0: none */
byte sent[16];		/* records committed by incarnations of side 0; of side 1: + 8 */
bool up[2];		/* connected */
byte now[2];		/* incarnation of the living process */

inline peer_state()
{
	/* incarnation first, then closed: see chan_peer_state() */
#ifdef MUT_CLOSED_FIRST
	c = sh[1 - s].closed;
	y = sh[1 - s].inc;
#else
	y = sh[1 - s].inc;
	c = sh[1 - s].closed;
#endif
	if
	:: c == peer -> end = 2
	:: c != peer && y != peer -> end = 1
	:: else -> end = 0
	fi
}

proctype side(byte s)
{
	byte x, y, c, peer, nonce, got, put, h, end, was, k;
	bool told_ready, told_live, sends, none, early;

	x = 0;
open:
	/* A new process of this side. */
	x++;
	atomic { now[s] = x; bound[s] = 0; up[s] = false };
	peer = 0; told_ready = false; told_live = false; sends = false;
	none = false; early = false; got = 0; put = 0; end = 0; was = 0;
#ifndef MUT_NO_GONE_FIRST
	sh[s].inc = 0;
#endif
	atomic { sh[s].ready = 0; sh[s].live = 0; sh[s].ack = 0 };
	sh[s].consumed = 0;
	sh[s].inc = x;
	y = 0; c = 0; h = 0; k = 0; nonce = 0;
step:
	do
	/* Killed, at any point; the last incarnation stays. */
	:: x < INCS -> goto open
	/* Looking for the other end. */
	:: !told_live && sh[1 - s].inc != 0 && sh[1 - s].inc != peer ->
		y = sh[1 - s].inc;
		if
		:: y == 0 || sh[1 - s].closed == y -> goto step
		:: else
		fi;
		sh[s].ready = 0;
		told_ready = false;
		peer = y;
		nonce = NONCE(s, x, y);
		sh[s].ack = y
	:: !told_live && peer != 0 && !told_ready &&
#ifndef MUT_NO_WAIT_FOR_ACK
	   sh[1 - s].ack == x ->
#else
	   true ->
#endif
		/* The reset of our lane: nobody may be reading it. */
		atomic {
			assert(bound[1 - s] == 0);
			lane[s].rec[0] = 0
		};
		put = 0;
		told_ready = true;
		sh[s].ready = nonce
	:: !told_live && told_ready && sh[1 - s].ready == nonce ->
#ifdef MUT_NO_LIVE
		sends = true;
#endif
		bound[s] = peer;
		told_live = true;
		sh[s].live = nonce
	:: told_live && !sends && sh[1 - s].live == nonce ->
		sends = true;
		up[s] = true
	/* Sending: only to a peer that is bound to us, or dead. */
	:: sends && put < RECS && end == 0 ->
		lane[s].rec[put + 1] = 0;
		atomic {
			lane[s].rec[put] = nonce;
			sent[s * 8 + x]++
		};
		put++
	/* The peer's position: monotonic, or it is not the peer's any more. */
	:: sends && end == 0 && sh[1 - s].consumed < was ->
		assert(sh[1 - s].inc != peer);
		end = 1
	:: sends && sh[1 - s].consumed > was ->
		was = sh[1 - s].consumed
	/* Receiving. */
	:: told_live && got < RECS && lane[1 - s].rec[got] != 0 && end != 3 ->
		h = lane[1 - s].rec[got];
		assert(h == nonce);
		got++;
		sh[s].consumed = got
	/* Nothing there: is the peer what it was? Then one more look, then the end. */
	:: told_live && !none && (got == RECS || lane[1 - s].rec[got] == 0) ->
		none = true
	:: none && (sh[1 - s].inc != peer || sh[1 - s].closed == peer || !early) ->
		/* Looked at whenever it changed, and once for nothing. */
		early = true;
		none = false;
		peer_state();
		if
		:: end == 0 -> goto step
		:: else
		fi;
#ifndef MUT_NO_REREAD
		do
		:: got < RECS && lane[1 - s].rec[got] != 0 ->
			assert(lane[1 - s].rec[got] == nonce);
			got++
		:: else -> break
		od;
#endif
		/* All that it ever committed to us has been read. */
		k = (1 - s) * 8 + peer;
		assert(got == sent[k]);
		/* It said that it closes: then it is no reset. */
		assert(end == 2 || sh[1 - s].closed != peer);
		atomic { bound[s] = 0; up[s] = false };
		assert(x < STALE - 1);	/* resets do not breed resets */
		goto open
	/* Closing of one's own accord. */
	:: sends && x < INCS && end == 0 ->
		sh[s].closed = x;
		goto open
	/* Both at rest: connected to each other's last incarnation, all read. */
	:: up[0] && up[1] && sh[1 - s].inc == peer && sh[1 - s].closed != peer &&
	   put == RECS && got == RECS && now[0] >= INCS && now[1] >= INCS ->
		goto gone
	od;
gone:
	skip
}

init {
	byte i;

	/* Old memory: words of incarnations long dead, and a lane full of records. */
	atomic {
		do
		:: i < 2 ->
			if
			:: sh[i].inc = STALE
			:: skip
			fi;
			if
			:: sh[i].closed = STALE
			:: sh[i].ready = STALE * 9; sh[i].live = STALE * 9; sh[i].ack = STALE
			:: skip
			fi;
			sh[i].consumed = RECS;
			lane[i].rec[0] = STALE * 9;
			lane[i].rec[1] = STALE * 9;
			i++
		:: else -> break
		od;
		run side(0);
		run side(1)
	}
}
