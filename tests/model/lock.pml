/* SPDX-License-Identifier: MIT */
/*
 * Robust locks: owners, waiters and their hints (userspace/lib/lock.c; portal-layout(5),
 * "Locks"). What the directory does under one is directory.pml's.
 *
 * Three users lock, store two words (equal when nobody is in the midst of it), unlock. One
 * place for waiters: who finds none looks by the clock, which is looking again and again.
 * One user may die at any step, or stand still for as long as it likes (any order of the
 * steps). Plain stores go through a FIFO buffer that drains when it likes (TSO);
 * compare-and-swaps wait until it is empty. A sleeper wakes by its bell: rung by who
 * unlocks, and by each death; never by itself.
 *
 * Shown:
 *  - two never have the lock at once, and what is stored under it is its owner's;
 *  - who gets it sees the words equal, or has been told that an owner died;
 *  - whoever repaired, or found it so, leaves it in order for the next;
 *  - nobody sleeps for ever (invalid end state otherwise): not beside a free lock, not beside
 *    a dead owner's.
 * A MUT_ name removes one thing that the proof needs.
 */
#define USERS	3

byte owner;			/* 0, or user + 1 */
byte place;			/* of the one waiter that can leave a hint */
bool repair;			/* PORTAL_LOCK_REPAIR */
byte x, y;
bool bell[USERS];		/* what its set would wake for */
bool dead[USERS], die;

byte inside;			/* how many believe that they have it */

mtype = { OWNER, PLACE, X, Y };
chan buf0 = [4] of { mtype, byte };
chan buf1 = [4] of { mtype, byte };
chan buf2 = [4] of { mtype, byte };

#ifdef MUT_TAKE_FROM_SUSPECT
#define CAN_BE_HAD(o)	(true)
#else
#define CAN_BE_HAD(o)	(o == 0 || dead[o - 1])
#endif

inline ring(t)
{
	if
	:: t != 0 -> bell[t - 1] = true
	:: else
	fi;
	t = 0
}

/* Compare-and-swap of what was seen: got. */
inline try_lock(me, b)
{
	seen = owner;
	if
	:: CAN_BE_HAD(seen) ->
		if
		:: atomic { empty(b) && owner == seen -> owner = me + 1; got = true; inside++ }
		:: atomic { empty(b) && owner != seen -> got = false }
		fi
	:: else -> got = false
	fi
}

inline wait_once(me, b)
{
	was = place;
	if
	:: mine -> was = 0
	:: !mine && (was == 0 || dead[was - 1]) ->
#ifdef MUT_PLACE_OF_THE_LIVING
		if
		:: atomic { empty(b) -> place = me + 1; mine = true }
		fi;
#else
		if
		:: atomic { empty(b) && place == was -> place = me + 1; mine = true }
		:: atomic { empty(b) && place != was -> skip }
		fi;
#endif
		was = 0
	:: else -> was = 0
	fi;
#ifndef MUT_TAKE_EVENTS_AFTER_LOOK
	/* What the bell has said so far was before the look that follows. */
	bell[me] = false;
#endif
#ifdef MUT_NO_LOOK_AFTER_PLACE
	got = false;
#else
	try_lock(me, b);
#endif
#ifdef MUT_TAKE_EVENTS_AFTER_LOOK
	bell[me] = false;
#endif
	if
	:: !got && mine -> bell[me]
#ifdef MUT_NO_PLACE_SLEEPS_TOO
	:: !got && !mine -> bell[me]
#endif
	:: else
	fi
}

inline unlock(me, b)
{
	atomic { inside--; b!OWNER,0 };
#ifndef MUT_NO_FENCE_AFTER_UNLOCK
	empty(b);
#endif
	t = place;
#ifndef MUT_NO_RING
	ring(t);
#endif
	t = 0
}

inline change(me, b)
{
	if
	:: seen != 0 -> repair = true
	:: else -> assert(x == y && !repair)
	fi;
	seen = 0;
	b!X,(me + 1);
	b!Y,(me + 1);
	empty(b);
	repair = false
}

proctype user(byte me; chan b)
{
	byte seen, was, t;
	bool got, mine;
	{
		try_lock(me, b);
		do
		:: !got -> wait_once(me, b)
		:: else -> break
		od;
		/* Its place is taken back by itself alone. */
		if
		:: mine -> mine = false;
			if
			:: place == me + 1 -> b!PLACE,0
			:: else
			fi
		:: else
		fi;
		change(me, b);
		unlock(me, b)
	} unless {
		me == 0 && die ->
			/* What was stored has arrived; then it is published; then all are told. */
			empty(b);
			atomic {
				if
				:: owner == me + 1 -> inside--
				:: else
				fi;
				dead[me] = true
			};
#ifndef MUT_DEATH_RINGS_NOBODY
			bell[1] = true;
			bell[2] = true
#endif
	}
}

proctype drain(byte me; chan b)
{
	byte v;
end:	do
	:: atomic { b?OWNER,v -> assert(owner == me + 1); owner = 0; v = 0 }
	:: atomic { b?PLACE,v ->
		if
		:: place == me + 1 -> place = 0
		:: else
		fi; v = 0 }
	:: atomic { b?X,v -> assert(owner == me + 1); x = v; v = 0 }
	:: atomic { b?Y,v -> assert(owner == me + 1); y = v; v = 0 }
	od
}

proctype fate()
{
	if
	:: die = true
	:: skip
	fi
}

proctype watch()
{
end:	inside > 1 -> assert(false)
}

init {
	atomic {
		run drain(0, buf0); run drain(1, buf1); run drain(2, buf2);
		run user(0, buf0); run user(1, buf1); run user(2, buf2);
		run fate(); run watch()
	}
}
