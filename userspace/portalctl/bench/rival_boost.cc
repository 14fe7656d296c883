// SPDX-License-Identifier: MIT
/* Boost.Lockfree's spsc_queue of fixed size; header-only, no C++ runtime needed. */
#include <new>

#include <boost/lockfree/spsc_queue.hpp>

#include "rival.h"

typedef boost::lockfree::spsc_queue<msg64, boost::lockfree::capacity<RIVAL_SLOTS> > queue;

#define RIVAL_PUSH(mem, m)	static_cast<queue *>(mem)->push(*(m))
#define RIVAL_POP(mem, m)	static_cast<queue *>(mem)->pop(*(m))

#include "rival_loop.h"

static void boost_init(void *mem)
{
	new (mem) queue;
}

extern "C" const struct rival rival_boost = {
	"boost spsc_queue", sizeof(queue), boost_init,
	rival_produce_plain, rival_produce_fenced, rival_consume,
};
