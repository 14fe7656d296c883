/* SPDX-License-Identifier: MIT */
/*
 * The directory's lock and its redo record (portal-layout(5), "DIRECTORY").
 *
 * Three users lock, finish what they find under way, make a change of two words (x and
 * y, equal when nothing is under way), and unlock. Two of them may die at any step; any
 * of them may stand still for as long as it likes and go on (any order of the steps), and
 * is then suspect to all others. A reader looks without the lock. Each user's stores go
 * through a FIFO buffer that drains when it likes (TSO); a compare-and-swap waits until
 * the buffer is empty; a death is proven only when all that was stored has arrived.
 *
 * Shown:
 *  - who stores anything of the directory's holds the lock at that moment: a zombie
 *    changes nothing that is another's;
 *  - who has locked and finished what was under way finds x = y = the last change that
 *    was committed: committed changes are made, whole, by somebody; others leave no trace;
 *  - a reader that finds one even generation before and after has seen x = y;
 *  - nobody waits for ever for a dead one (invalid end state otherwise).
 * A MUT_ name removes one thing that the proof needs.
 */
#define USERS	3

byte owner;			/* 0, or user + 1 */
byte state, record;		/* redo: generation after it; value for x and y */
byte generation, x, y;
bool dead[USERS];		/* proven, for everybody to see */

mtype = { OWNER, STATE, RECORD, GENERATION, X, Y };
chan buf0 = [7] of { mtype, byte };
chan buf1 = [7] of { mtype, byte };
chan buf2 = [7] of { mtype, byte };

byte intent[USERS];		/* what the change of each is */
byte committed;			/* value of the last change that was committed */
bool die[USERS];

inline apply(b)
{
	b!GENERATION,(t - 1);
	b!X,v;
	b!Y,v;
	b!GENERATION,t;
	b!STATE,0
}

inline lock(me, b)
{
	atomic {
		empty(b) && (owner == 0
#ifdef MUT_TAKE_FROM_SUSPECT
			|| true
#else
			|| dead[owner - 1]
#endif
			) ->
		owner = me + 1
	}
}

inline finish(b)
{
#ifndef MUT_NO_REDO
	t = state;
	if
	:: t != 0 -> v = record; apply(b); empty(b)
	:: else
	fi;
#endif
	assert(x == y && x == committed)
}

inline change(me, b)
{
	v = me + 1;
	intent[me] = v;
	t = generation + 2;
#ifdef MUT_COMMIT_BEFORE_RECORD
	b!STATE,t;
	b!RECORD,v;
#else
	b!RECORD,v;
	b!STATE,t;
#endif
#ifdef MUT_CLEARED_BEFORE_STORED
	b!GENERATION,(t - 1);
	b!STATE,0;
	b!X,v;
	b!Y,v;
	b!GENERATION,t;
#else
#ifdef MUT_GENERATION_STAYS_EVEN
	b!X,v;
	b!Y,v;
	b!GENERATION,t;
	b!STATE,0;
#else
#ifdef MUT_UNLOCK_BEFORE_CLEARED
	b!GENERATION,(t - 1);
	b!X,v;
	b!Y,v;
	b!GENERATION,t;
	b!OWNER,0;
	b!STATE,0;
#else
	apply(b);
#endif
#endif
#endif
#ifndef MUT_UNLOCK_BEFORE_CLEARED
	b!OWNER,0
#endif
}

proctype user(byte me; chan b)
{
	byte t, v;
	{
		lock(me, b);
		finish(b);
		change(me, b)
	} unless {
		die[me] -> empty(b); dead[me] = true
	}
}

/* Whatever is stored is stored by who holds the lock. */
proctype drain(byte me; chan b)
{
	byte v;
end:	do
	:: atomic { b?OWNER,v -> assert(owner == me + 1); owner = 0; v = 0 }
	:: atomic { b?STATE,v -> assert(owner == me + 1); state = v;
		if
		:: v != 0 && v > generation + 1 -> committed = intent[me]
		:: else
		fi; v = 0 }
	:: atomic { b?RECORD,v -> assert(owner == me + 1); record = v; v = 0 }
	:: atomic { b?GENERATION,v -> assert(owner == me + 1); generation = v; v = 0 }
	:: atomic { b?X,v -> assert(owner == me + 1); x = v; v = 0 }
	:: atomic { b?Y,v -> assert(owner == me + 1); y = v; v = 0 }
	od
}

proctype fate(byte me)
{
	if
	:: die[me] = true
	:: skip
	fi
}

proctype reader()
{
	byte g, a, b, again;

	g = generation;
	a = x;
	b = y;
#ifdef MUT_READER_LOOKS_ONCE
	again = g;
#else
	again = generation;
#endif
	if
	:: g == again && g % 2 == 0 -> assert(a == b)
	:: else
	fi
}

init {
	atomic {
		run drain(0, buf0); run drain(1, buf1); run drain(2, buf2);
		run user(0, buf0); run user(1, buf1); run user(2, buf2);
		run fate(0); run fate(1); run reader()
	}
}
