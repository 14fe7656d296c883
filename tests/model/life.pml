/* SPDX-License-Identifier: MIT */
/*
 * Slots, sessions, tokens (portal-layout(5), "LIVES AND TOKENS", "PEERS", "SESSIONS").
 *
 * One slot of the peer table, one of its session rows. Two machines want the slot: A,
 * which may crash at any step and then either boots again (new claim, same address) or
 * ends (the warden sees its process end), and B. Each runs sessions in the row. A machine
 * that stands still for any time and goes on (a zombie) is any order of the steps.
 * Stores of a kernel go through a FIFO buffer that drains when it likes (TSO); what was
 * stored before a crash drains before anybody takes note of it.
 *
 * An observer learns a token from the row, and then judges it again and again.
 *
 * Shown:
 *  - who is judged dead stores nothing any more: not then, not later;
 *  - once a death is published (dead in the row; a verdict; a new claim) no judgement
 *    that begins later says alive, whoever has the row by then: a token is one session's;
 *  - what was read between two equal looks at a life word belongs to that life.
 * A MUT_ name removes one thing that the proof needs.
 */
#define NONE	0
#define JOINING	1
#define ALIVE	2
#define DEAD	3
#define LIFE(n, state)	((n) * 4 + (state))
#define SEQ(l)		((l) / 4)
#define STATE(l)	((l) % 4)

/* Claims: 1 and 2 are A's lives, 3 is B's. 0: free. */
#define OWNER(c)	((c) == 3 -> 1 : 0)
#define UID(c, k)	((c) * 2 + (k))

byte claim, dead;		/* the peer's row */
byte life, sclaim, field;	/* the session's */

mtype = { LIFE_, SCLAIM_, FIELD_, CLAIM_ };
chan buf[2] = [5] of { mtype, byte };

/* For the assertions, by session. */
bool stopped[8];		/* no store is possible any more */
bool published[8];		/* its death is there for everybody to see */
bool judged[8];			/* somebody has judged it dead */
byte who[8];			/* by sequence: which session */

bool crash, gone[2];

inline publish_claim(c)
{
	if
	:: c != 0 -> published[UID(c, 0)] = true; published[UID(c, 1)] = true
	:: else
	fi
}

inline stop_claim(c)
{
	stopped[UID(c, 0)] = true; stopped[UID(c, 1)] = true
}

inline run_session(m, c, k)
{
#ifndef MUT_REUSE_SEQUENCE
	n++;
#else
	n = (n == 0 -> 1 : n);
#endif
	who[n] = UID(c, k);
	buf[m]!LIFE_,LIFE(n, JOINING);
#ifdef MUT_ALIVE_BEFORE_ROW
	buf[m]!LIFE_,LIFE(n, ALIVE);
#endif
	buf[m]!SCLAIM_,c;
	buf[m]!FIELD_,UID(c, k);
#ifndef MUT_ALIVE_BEFORE_ROW
	buf[m]!LIFE_,LIFE(n, ALIVE);
#endif
	/* The process stores as it likes. */
	assert(!judged[UID(c, k)]);
#ifdef MUT_DEAD_BEFORE_STOP
	buf[m]!LIFE_,LIFE(n, DEAD);
	empty(buf[m]);
#endif
	assert(!judged[UID(c, k)]);
	stopped[UID(c, k)] = true;
#ifndef MUT_DEAD_BEFORE_STOP
	buf[m]!LIFE_,LIFE(n, DEAD)
#endif
}

inline join(m, c)
{
	skip;
end_claim:
	atomic {
		empty(buf[m]) && (claim == 0 || claim == dead || OWNER(claim) == m
#ifdef MUT_TAKE_FROM_SUSPECT
			|| true
#endif
			) ->
		publish_claim(claim);
		claim = c
	};
	n = SEQ(life);
	if
	:: STATE(life) == ALIVE || STATE(life) == JOINING -> buf[m]!LIFE_,LIFE(n, DEAD)
	:: else
	fi
}

proctype machine_a()
{
	byte n;
	{
		join(0, 1);
		run_session(0, 1, 0);
		run_session(0, 1, 1);
		buf[0]!CLAIM_,0
	} unless {
		crash -> atomic { stop_claim(1) }
	};
	if
	:: crash -> empty(buf[0]);
		if
		:: gone[0] = true
		:: atomic { empty(buf[0]) && (claim == 0 || claim == dead || OWNER(claim) == 0) ->
			publish_claim(claim); claim = 2 };
			n = SEQ(life);
			if
			:: STATE(life) == ALIVE || STATE(life) == JOINING ->
				buf[0]!LIFE_,LIFE(n, DEAD)
			:: else
			fi;
			run_session(0, 2, 0);
			buf[0]!CLAIM_,0
		:: claim != 0 && OWNER(claim) != 0	/* another has the slot: it finds one elsewhere */
		fi
	:: else
	fi
}

proctype machine_b()
{
	byte n;

	join(1, 3);
	run_session(1, 3, 0);
	buf[1]!CLAIM_,0
}

proctype drain(byte m)
{
	byte v;
end:	do
	:: atomic { buf[m]?LIFE_,v -> life = v;
		if
		:: STATE(v) == DEAD -> published[who[SEQ(v)]] = true
		:: else
		fi; v = 0 }
	:: atomic { buf[m]?SCLAIM_,v -> sclaim = v; v = 0 }
	:: atomic { buf[m]?FIELD_,v -> field = v; v = 0 }
	:: atomic { buf[m]?CLAIM_,v -> publish_claim(claim); claim = 0; v = 0 }
	od
}

/* portald: it sees a QEMU's process end. */
proctype warden()
{
	byte c;
#ifdef MUT_VERDICT_ON_SUSPICION
	claim == 1;
#else
end:	gone[0];
#endif
	c = claim;
	if
#ifdef MUT_VERDICT_BY_SLOT
	:: c != 0 ->
#else
	:: c != 0 && OWNER(c) == 0 ->
#endif
		atomic { dead = c; publish_claim(c) }
	:: else
	fi
}

proctype fate()
{
	if
	:: crash = true
	:: skip
	fi
}

proctype observer()
{
	byte l, again, f, s, c, x, tok, u;
	bool pub;

end_learn:
	do
	:: l = life;
		if
		:: STATE(l) == ALIVE ->
			f = field;
#ifndef MUT_NO_SECOND_LOOK
			again = life;
#else
			again = l;
#endif
			if
			:: again == l -> assert(f == who[SEQ(l)]); tok = SEQ(l); u = f; break
			:: else
			fi
		:: else -> break
		fi
	od;
	do
	:: tok == 0 -> break
	:: tok != 0 ->
		pub = published[u];
		l = life;
		if
		:: SEQ(l) > tok || (SEQ(l) == tok && STATE(l) == DEAD) -> goto is_dead
		:: else
		fi;
#ifndef MUT_REUSE_SEQUENCE
		assert(SEQ(l) == tok);
#endif
		s = sclaim;
		again = life;
		if
		:: again != l -> skip		/* it changed: from the start */
		:: else ->
			c = claim;
			x = dead;
#ifndef MUT_CLAIM_NOT_COMPARED
			if
			:: s != c -> goto is_dead
			:: else
			fi;
#endif
			if
#ifndef MUT_VERDICT_NOT_READ
			:: s == x -> goto is_dead
#endif
			:: else -> assert(!pub)
			fi
		fi
	:: break
	od;
	goto done;
is_dead:
	atomic { assert(stopped[u]); judged[u] = true };
done:	skip
}

init {
	atomic {
		run drain(0); run drain(1);
		run machine_a(); run machine_b();
		run warden(); run fate(); run observer()
	}
}
