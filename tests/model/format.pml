/* SPDX-License-Identifier: MIT */
/*
 * The region is formatted anew, and a kernel that was in its tables, and knows nothing of that,
 * stands still for any time between any two of its steps (portal-layout(5), "Formatted anew";
 * portal_layout_gone() and portal_word_swap() in drivers/core/layout.c, layout_formatted() and
 * layout_write() in the library).
 *
 * It leaves (its claim becomes 0), or joins (0 becomes its claim). Who formats swaps the magic,
 * zeroes the tables, stores the superblock in two pieces, of which the first has the incarnation,
 * and then the magic; maybe all of it once more. The steps of each are seen in their order, which
 * takes the barriers that are there.
 *
 * Shown: a look that begins when the tables are gone finds that; and when both are done, no claim
 * of the old tables is in the new ones. A MUT_ name removes one thing that the proof needs.
 */
#define FORMATTING	0
#define MAGIC		1
#define CLAIM		7

byte magic = MAGIC, incarnation, rest;	/* which fit if they are equal */
byte claim;
bool begun, formatted, done;

/* What is remembered until the next beat, which may be far away. */
byte spoilt = 255;
bool is_gone;

inline gone()
{
	is_gone = false;
	before = formatted;
	do
	:: m = magic;
		if
		:: m == FORMATTING -> is_gone = true; break
		:: else
		fi;
		i = incarnation;
		if
		:: i == 0 || i == spoilt -> break
		:: else
		fi;
#ifndef MUT_NO_SECOND_LOOK
		m = magic;
		if
		:: m == FORMATTING -> is_gone = true; break
		:: else
		fi;
#endif
		/* The sum: as it is read, piece by piece. */
		s = incarnation;
		if
		:: s == rest && magic == MAGIC -> is_gone = true; break
		:: else
		fi;
		spoilt = i
#ifdef MUT_NO_LAST_LOOK
		; break
#endif
	od;
	assert(!before || is_gone)
}

inline swap(old, new)
{
	gone();
	if
	:: is_gone -> goto out
	:: else
	fi;
	atomic { swapped = (claim == old); claim = (swapped -> new : claim) };
	if
	:: !swapped -> goto out
	:: else
	fi;
#ifndef MUT_NOT_UNDONE
	gone();
#endif
	if
#ifdef MUT_UNDO_ZERO
	:: is_gone ->
#else
	:: is_gone && new != 0 ->
#endif
		atomic { claim = (claim == new -> old : claim) }
	:: else
	fi
}

active proctype kernel()
{
	byte m, i, s;
	bool swapped, before;

	if
	:: claim = CLAIM; begun = true; swap(CLAIM, 0)
	:: begun = true; swap(0, CLAIM)
	fi;
out:	done;
	gone();
	assert(claim == 0)
}

inline format(n)
{
	atomic { magic = FORMATTING; formatted = true };
	claim = 0;
	incarnation = n;
	rest = n;
	magic = MAGIC
}

active proctype formatter()
{
	begun;
	format(1);
	if
	:: format(2)
	:: skip
	fi;
	done = true
}
