/* SPDX-License-Identifier: MIT */
/*
 * A thread commits its last record and, without closing, opens its side anew: as after a
 * crash, but in one thread, so that nothing orders its stores but themselves
 * (chan_announce() in userspace/lib/handshake.c; rx_empty() in message.c, vmpr_tx_refresh()).
 *
 * Memory is weak: each word has a store buffer of its own, and stores to different words
 * become visible in any order (arm64). A release store waits for those before it. Loads
 * are acquire loads: in order.
 *
 * Shown: the other end, still bound to the old incarnation, reads what was committed
 * before it reports the reset; and when it sees a word's first value, it also sees that
 * the incarnation changed. A MUT_ name removes one thing that the proof needs.
 */
#define OLD	1
#define NEW	2

byte header = 0;		/* of the record committed last */
byte incarnation = OLD;
byte consumed = 1;		/* how far OLD had read: not at the start */

chan hbuf = [1] of { byte };
chan ibuf = [2] of { byte };
chan cbuf = [1] of { byte };

#define release() (empty(hbuf) && empty(ibuf) && empty(cbuf))

active proctype writer()
{
	hbuf!1;
#ifndef MUT_NO_GONE
#ifndef MUT_GONE_RELAXED
	release();
#endif
	ibuf!0;
#endif
#ifndef MUT_FIRST_VALUES_RELAXED
	release();
#endif
	cbuf!0;
#ifndef MUT_ANNOUNCED_RELAXED
	release();
#endif
	ibuf!NEW
}

/* The other end's receiving thread. */
active proctype reader()
{
	byte h, y;

	do
	:: h = header;
	   if
	   :: h -> break
	   :: else ->
		y = incarnation;
		if
		:: y == OLD
		:: else ->
#ifndef MUT_NO_REREAD
			h = header;
#endif
			assert(h);
			break
		fi
	   fi
	od
}

/* Its sending thread: a position that went back is a broken rule, or a reset. */
active proctype sender()
{
	byte c, y;

	do
	:: c = consumed;
	   if
	   :: c == 0 -> y = incarnation; assert(y != OLD); break
	   :: else
	   fi
	:: break
	od
}

/* Who pairs with NEW takes its words for NEW's. */
active proctype suitor()
{
	byte y, c;

	y = incarnation;
	if
	:: y == NEW -> c = consumed; assert(c == 0)
	:: else
	fi
}

active proctype drain()
{
	byte v;
end:	do
	:: atomic { hbuf?v -> header = v }
	:: atomic { ibuf?v -> incarnation = v }
	:: atomic { cbuf?v -> consumed = v }
	od
}
