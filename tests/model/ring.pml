/* SPDX-License-Identifier: MIT */
/*
 * The message ring (userspace/include/vmportal_ring.h): clearing ahead, pads,
 * reservations that are cut short, lazy positions, and the end of a dead producer.
 *
 * A lane of L lines; positions count lines. Of each line only the first word is
 * modelled. A word is 0, the right header of a position, or JUNK: payload or old
 * memory, which may look like any header; a consumer that looks at JUNK at a moment
 * when it expects a header would be deceived, so that it must never happen.
 *
 * Shown: the consumer finds 0 or the header that belongs there; payload is complete
 * when its header is seen; the producer writes no line that the consumer has not
 * given back; after the producer's end every committed record is read, and then the
 * end is seen. A MUT_ name removes one thing that the proof needs.
 */
#define L	8	/* lines; a power of two */
#define MAX	3	/* lines of a record: 7/16 */
#define LAZY	1	/* 1/8 */
#define LAST	11	/* positions to go through: once around, and each line once more */

#define JUNK	255
#define PADBIT	128
#define HEAD(pos, nl)	(((pos) % 32) * 4 + (nl))	/* nl 1..3: never 0 */

/* Which positions a header word can be for: exact match only. */
byte word[L];		/* the first word of each line */
byte body[L];		/* who filled the line's payload: position + 1 */
byte cons;		/* the consumer's position, as published */
byte ask;
byte rpos;		/* the consumer's position, in truth; for the assertions */
byte committed;		/* end of the last committed record; for the assertions */
bool dead;
byte padlen[L];		/* length of a pad's record, beside its PADBIT word */

inline write(p, v)
{
	/* Nobody reads that line any more. */
	assert((p) < rpos + L);
	word[(p) % L] = v
}

/* vmpr_publish_record(): clear what is behind, then store the header. */
inline publish(end, v)
{
#ifndef MUT_NO_DIRTY
	if
	:: (end) < dirty -> cleared = end
	:: else
	fi;
#endif
	if
	:: cleared < (end) -> cleared = end
	:: else
	fi;
#ifdef MUT_CLEAR_LATE
	atomic { word[pos % L] = v; committed = end };
#endif
#ifndef MUT_NO_CLEAR
	atomic {
		do
		:: cleared < (end) + 1 -> write(cleared, 0); cleared++
		:: else -> break
		od
	};
#endif
#ifndef MUT_CLEAR_LATE
	atomic { word[pos % L] = v; committed = end };
#endif
	pos = end;
	dirty = end
}

proctype producer()
{
	byte pos, limit, cleared, dirty, nl, resv, rest, need, i;

	limit = L;
	cleared = 1;
	do
	:: pos >= LAST -> break
	:: break				/* it may die at any record */
	:: pos < LAST ->
		select(resv : 1 .. MAX);
		rest = L - pos % L;
		need = (resv <= rest -> resv : rest + resv);
#ifdef MUT_NO_FREE_LINE
		need = need - 1;
#endif
		do
		:: pos + need + 1 <= limit -> break
		:: else ->
			ask = pos + need + 1 - L;
			(cons + L > limit);
			assert(cons <= pos && cons + L >= limit);
			limit = cons + L
		od;
#ifdef MUT_NO_FREE_LINE
		need = need + 1;
#endif
		if
		:: need != resv ->
			padlen[pos % L] = rest;
			publish(pos + rest, PADBIT + pos % 32)
		:: else
		fi;
		if
		:: dirty < pos + resv -> dirty = pos + resv
		:: else
		fi;
		/* The application writes what it likes into what it reserved. */
		atomic {
			i = pos + 1;
			do
			:: i < pos + resv -> write(i, JUNK); i++
			:: else -> break
			od;
			i = 0
		};
		select(nl : 1 .. resv);
#ifdef MUT_HEADER_FIRST
		publish(pos + nl, HEAD(pos, nl));
		body[(pos - nl) % L] = pos - nl + 1;
#else
		atomic { assert(pos < rpos + L); body[pos % L] = pos + 1 };
		publish(pos + nl, HEAD(pos, nl));
#endif
		/* Clear ahead, as far as the consumer has given back. */
		if
		:: atomic {
			do
			:: cleared < pos + 4 && cleared < limit -> write(cleared, 0); cleared++
			:: else -> break
			od
		   }
		:: skip
		fi;
		resv = 0; nl = 0; rest = 0; need = 0
	od;
	dead = true
}

proctype consumer()
{
	byte pos, published, h, nl;
	bool last;

	do
	:: h = word[pos % L];
		if
		:: h == 0 ->
			if
			:: last ->
				/* The end: nothing was lost. */
				assert(pos == committed);
				break
#ifdef MUT_NO_REREAD
			:: !last && dead -> assert(pos == committed); break
#else
			:: !last && dead -> last = true
#endif
			:: !last && !dead ->
				/* Nothing yet: give back what is asked for, and wait. */
				if
				:: ask > published && ask <= pos ->
					published = pos;
					cons = pos
				:: else -> (word[pos % L] != 0 || dead ||
					    (ask > published && ask <= pos))
				fi
			fi
		:: h == PADBIT + pos % 32 ->
			nl = padlen[pos % L];
			assert(nl == L - pos % L && nl < L / 2);
			atomic { pos = pos + nl; rpos = pos }
		:: else ->
			/* Exact match, or -EPROTO: an honest producer never causes it. */
			assert(h / 4 == pos % 32 && h % 4 >= 1);
			assert(h != JUNK && h < PADBIT);
			/* The payload is there, all of it. */
			assert(body[pos % L] == pos + 1);
			nl = h % 4;
			atomic { body[pos % L] = 0; pos = pos + nl; rpos = pos };
			if
			:: pos - published >= LAZY || (ask > published && ask <= pos) ->
				published = pos;
				cons = pos
			:: pos - published < L / 4 && !(ask > published && ask <= pos)
			fi
		fi
	od
}

init {
	byte i;

	/* Old memory: anything, but for the first header, which the handshake clears. */
	atomic {
		i = 1;
		do
		:: i < L -> word[i] = JUNK; i++
		:: else -> break
		od;
		run producer();
		run consumer()
	}
}
