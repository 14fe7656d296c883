/* SPDX-License-Identifier: MIT */
/*
 * When VMBus's packet rings signal (userspace/include/vmportal_packet.h,
 * userspace/lib/packet.c): a producer that publishes by the batch and sleeps for room by
 * pending_send_sz, a consumer that sleeps for packets by interrupt_mask and gives room
 * back late.
 *
 * Weak memory: each side has a store buffer, a FIFO that drains whenever it likes (TSO).
 * On weaker machines the index stores are releases, behind what they cover; mask and
 * wish have a full fence behind them before anything depends on their order.
 *
 * The consumer is one of two kinds: Linux's takes "more than pending_send_sz" for
 * enough, QEMU's "that much". (QEMU's other habit, that it signals nothing when it has
 * emptied the ring, is no part of the protocol; the library's sender looks by itself.)
 * Room is counted in halves here, as the wish is a number between two units of room.
 *
 * Shown: no one sleeps for ever while there is something for him (an invalid end state
 * otherwise). A MUT_ name removes one thing that the proof needs.
 */
#define SIZE	4	/* units of the ring; one stays free */
#define N	4	/* packets, of 1 or 2 units */
#define LAZY	2	/* the consumer gives back by as many, at the latest */

#define AHEAD(a, b)	(((b) + SIZE - (a)) % SIZE)

byte write_index, pending;	/* written by the producer */
byte read_index, masked = 1;	/* written by the consumer */
byte length[SIZE];		/* the packets; seen with write_index */
bool bell_p, bell_c;

mtype = { WRITE, PENDING, READ, MASK };
chan pbuf = [3] of { mtype, byte };
chan cbuf = [3] of { mtype, byte };

inline fence_p() { empty(pbuf) }
inline fence_c() { empty(cbuf) }

/* Show the consumer what was committed, all of it at once. */
inline publish()
{
	if
	:: pos != published ->
		old = published;
		published = pos;
		pbuf!WRITE,pos;
#ifndef MUT_NO_FENCE_AFTER_PUBLISH
		fence_p();
#endif
		if
		:: masked != 0
		:: else ->
			if
			:: read_index == old ->
				bell_c = true
			:: else
			fi
		fi
	:: else
	fi
}

#define FITS	(SIZE - AHEAD(read_index, pos) > need)

active proctype producer()
{
	byte sent, pos, published, old, need;
	bool asked;

	do
	:: sent == N -> break
	:: sent < N ->
		if
		:: need = 1
		:: need = 2
		fi;
again:		if
		:: FITS ->
			if
			:: asked -> asked = false; pbuf!PENDING,0
			:: else
			fi;
			length[pos] = need;
			pos = (pos + need) % SIZE;
			sent++;
			if
			:: publish()
			:: skip		/* VMP_MORE */
			fi
		:: else ->
#ifndef MUT_NO_FLUSH_BEFORE_WAIT
			publish();
#endif
			asked = true;
#ifndef MUT_ASK_EXACTLY
			pbuf!PENDING,(2 * need + 1);
#else
			pbuf!PENDING,(2 * need);
#endif
#ifndef MUT_NO_FENCE_AFTER_WISH
			fence_p();
#endif
			if
#ifndef MUT_NO_LAST_LOOK_FOR_ROOM
			:: FITS
#endif
			:: else -> bell_p; bell_p = false
			fi;
			goto again
		fi
	od;
	publish()
}

/* Give back what was read; signal if this read made enough of too little. */
inline give()
{
	had = AHEAD(given, pos);
	given = pos;
	cbuf!READ,pos;
#ifndef MUT_NO_FENCE_AFTER_GIVE
	fence_c();
#endif
	want = pending;
	if
	:: want != 0 ->
		room = SIZE - AHEAD(pos, write_index);
		if
		:: (strict && 2 * room > want && 2 * (room - had) <= want) ||
		   (!strict && 2 * room >= want && 2 * (room - had) < want) ->
			bell_p = true
		:: else
		fi
	:: else
	fi
}

active proctype consumer()
{
	byte got, pos, given, seen, had, want, room;
	bool strict;

	if
	:: strict = true
	:: strict = false
	fi;
	do
	:: got == N -> break
	:: got < N ->
		if
		:: pos != seen ->
			assert(length[pos] == 1 || length[pos] == 2);
			pos = (pos + length[pos]) % SIZE;
			got++;
			if
#ifndef MUT_NO_GIVE_WHEN_EMPTY
			:: pos == seen || AHEAD(given, pos) >= LAZY || pending != 0 -> give()
#else
			:: AHEAD(given, pos) >= LAZY || pending != 0 -> give()
#endif
			:: else
			fi
		:: pos == seen ->
			seen = write_index;
			if
			:: pos != seen
			:: else ->
				cbuf!MASK,0;
#ifndef MUT_NO_FENCE_AFTER_UNMASK
				fence_c();
#endif
				if
#ifndef MUT_NO_LAST_LOOK_FOR_PACKETS
				:: write_index != pos
#endif
				:: else -> bell_c; bell_c = false
				fi;
				cbuf!MASK,1
			fi
		fi
	od
}

active proctype drain_p()
{
	byte v;
end:	do
	:: atomic { pbuf?WRITE,v -> write_index = v }
	:: atomic { pbuf?PENDING,v -> pending = v }
	od
}

active proctype drain_c()
{
	byte v;
end:	do
	:: atomic { cbuf?READ,v -> read_index = v }
	:: atomic { cbuf?MASK,v -> masked = v }
	od
}
