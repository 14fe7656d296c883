// SPDX-License-Identifier: MIT
/* Two counters that are equal whenever nobody has the lock, or who had it is dead. */
#include "crash.h"

static void repair(struct world *w, struct guarded *g, uint32_t i)
{
	uint64_t a = g->first, b = g->second;

	atomic_fetch_add(&w->ledger->repairs[i], 1);
	if (a != b && a != b + 1 && !lock_in_doubt(w, i))
		finding(w, "lock %u: its owner died between %llu and %llu", i, (unsigned long long)a, (unsigned long long)b);
	__atomic_store_n(&g->second, a, __ATOMIC_RELAXED);
	atomic_store(&w->ledger->holder[i], 0);
	if (vmp_lock_repaired(w->p, &g->lock))
		finding(w, "lock %u: repaired: %s", i, vmp_errmsg());
}

static void under_lock(struct world *w, struct guarded *g, uint32_t i)
{
	uint64_t was = atomic_exchange(&w->ledger->holder[i], w->token);

	if (was && !lock_in_doubt(w, i))
		finding(w, "lock %u: %#llx has it, too", i, (unsigned long long)was);
	if (g->first != g->second && lock_in_doubt(w, i))
		__atomic_store_n(&g->second, g->first, __ATOMIC_RELAXED);
	if (g->first != g->second && !lock_in_doubt(w, i))
		finding(w, "lock %u: %llu and %llu under the lock", i, (unsigned long long)g->first,
			(unsigned long long)g->second);
	__atomic_store_n(&g->first, g->first + 1, __ATOMIC_RELAXED);
	at_step(OWN_HALF);
	if (!below(&w->rng, 20))
		usleep((useconds_t)below(&w->rng, 2000));
	__atomic_store_n(&g->second, g->second + 1, __ATOMIC_RELAXED);
	atomic_fetch_add(&w->ledger->done[i], 1);
	atomic_store(&w->ledger->holder[i], 0);
}

void do_lock(struct world *w)
{
	uint32_t i = (uint32_t)below(&w->rng, LOCKS);
	struct guarded *g = &w->guarded[i];
	int r;

	if (mutant(w, "unlocked", 100))
		__atomic_fetch_add(&g->first, 1, __ATOMIC_RELAXED);
	begin(w, OP_LOCK, CALL_MS);
	r = vmp_lock(w->p, &g->lock, CALL_MS);
	if (mutant(w, "late", 200))
		usleep((CALL_MS + 2 * LOOK_MS) * 1000);
	finish(w);
	if (r == -ETIMEDOUT || r == -EINTR)
		return;
	if (r && r != -EOWNERDEAD) {
		finding(w, "lock %u: %d %s", i, r, vmp_errmsg());
		return;
	}
	if (r)
		repair(w, g, i);
	under_lock(w, g, i);
	r = vmp_unlock(w->p, &g->lock);
	if (r)
		finding(w, "lock %u: unlocking: %d %s", i, r, vmp_errmsg());
}
