// SPDX-License-Identifier: GPL-2.0-only
/*
 * The bytes of a managed portal: is there a superblock, and where are the tables?
 *
 * A superblock is copied once and judged whole; places are taken from that copy only, and
 * are this kernel's own from then on (struct portal_layout). So no byte that changes later
 * moves a table, and every row lies within the protected part. A row never crosses a
 * page, thus never a piece of the region.
 *
 * But where others have laid the region out anew, while this machine stood still, say, there
 * are other tables now, or their data: portal_layout_gone(), which is asked right before every
 * store, and behind each swap (portal_word_swap()). Between a look and what is stored behind it,
 * nothing is done that takes long.
 *
 * Stores go through the core's own mapping, 64 bits at a time.
 */
#include <linux/bits.h>
#include <linux/build_bug.h>
#include <linux/dev_printk.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/string.h>

#include "core.h"

/* Damaged superblocks that are summed up between two heartbeats. */
#define PORTAL_SPOILT_A_BEAT	16

/*
 * Whether the checksum is that of the other bytes. Each word is read once, wherever @s is; of one
 * that others write to meanwhile this tells nothing for sure.
 */
static bool portal_super_fits(const struct portal_super *s)
{
	const size_t at = offsetof(struct portal_super, checksum) / sizeof(__le64);
	const __le64 *from = (const __le64 *)s;
	u32 crc = ~0, sum = 0;
	__le64 word;
	size_t i;

	BUILD_BUG_ON(offsetof(struct portal_super, checksum) % sizeof(word));
	for (i = 0; i < sizeof(*s) / sizeof(word); i++) {
		word = READ_ONCE(from[i]);
		if (i == at) {
			sum = lower_32_bits(le64_to_cpu(word));
			word &= cpu_to_le64(GENMASK_ULL(63, 32));
		}
		crc = portal_compat_crc32c(crc, &word, sizeof(word));
	}
	return ~crc == sum;
}

/* Copied once, word by word: others may write meanwhile, and only the copy is judged. */
static void portal_super_copy(struct portal_super *s, const void *from)
{
	const u64 *word = from;
	u64 *to = (u64 *)s;
	size_t i;

	/* Acquire: the magic is stored last, so the rest is not older. */
	to[0] = virt_load_acquire(word);
	for (i = 1; i < sizeof(*s) / sizeof(*to); i++)
		to[i] = READ_ONCE(word[i]);
}

/* A table of @count rows behind @start, within the protected part. */
static bool portal_area_valid(const struct portal_area *a, u64 start, u64 protected, u32 stride,
			      u32 count)
{
	u64 offset = le64_to_cpu(a->offset), length = (u64)stride * count;

	return le32_to_cpu(a->stride) == stride && le32_to_cpu(a->count) == count &&
	       le64_to_cpu(a->length) == length && IS_ALIGNED(offset, PORTAL_AREA_ALIGN) &&
	       offset >= start && length <= protected && offset <= protected - length;
}

/* Places of the two tables that kernels write; the rest is for user space to judge. */
static bool portal_places_valid(const struct portal_super *s)
{
	const struct portal_area *peers = &s->area[PORTAL_AREA_PEERS];
	const struct portal_area *sessions = &s->area[PORTAL_AREA_SESSIONS];
	u32 rows = le32_to_cpu(s->peers), block = le32_to_cpu(s->sessions);
	u64 protected = le64_to_cpu(s->protected_size);

	if (!rows || rows > PORTAL_MAX_PEERS || !block || block > PORTAL_MAX_SESSIONS / rows)
		return false;
	return portal_area_valid(peers, PORTAL_SUPER_SIZE, protected,
				 sizeof(struct portal_peer), rows) &&
	       portal_area_valid(sessions, le64_to_cpu(peers->offset) + le64_to_cpu(peers->length),
				 protected, sizeof(struct portal_session), rows * block);
}

/*
 * The protected part must end on a page here, too. 0, -ENODATA, -EUCLEAN, or
 * -EPROTONOSUPPORT, as PORTAL_SET_MODE has them.
 */
static int portal_super_judge(const struct portal *p, const struct portal_super *s)
{
	u64 size = le64_to_cpu(s->size), protected = le64_to_cpu(s->protected_size);

	if (le64_to_cpu(s->magic) == PORTAL_MAGIC_FORMATTING)
		return -EUCLEAN;
	if (le64_to_cpu(s->magic) != PORTAL_MAGIC)
		return -ENODATA;
	if (!portal_super_fits(s))
		return -EUCLEAN;
	if (le32_to_cpu(s->version) != PORTAL_LAYOUT_VERSION)
		return -EPROTONOSUPPORT;
	if (le64_to_cpu(s->incompat) & ~PORTAL_INCOMPAT_KNOWN)
		return -EPROTONOSUPPORT;
	if (size > p->size || !IS_ALIGNED(size, PORTAL_UNIT))
		return -EUCLEAN;
	if (!protected || protected >= size || !IS_ALIGNED(protected, PORTAL_UNIT))
		return -EUCLEAN;
	if (!s->incarnation || !portal_places_valid(s))
		return -EUCLEAN;
	return IS_ALIGNED(protected, PAGE_SIZE) ? 0 : -EPROTONOSUPPORT;
}

static void portal_layout_take(struct portal_layout *l, const struct portal_super *s)
{
	memset(l, 0, sizeof(*l));
	l->incarnation = le64_to_cpu(s->incarnation);
	l->protected_size = le64_to_cpu(s->protected_size);
	l->peers_at = le64_to_cpu(s->area[PORTAL_AREA_PEERS].offset);
	l->sessions_at = le64_to_cpu(s->area[PORTAL_AREA_SESSIONS].offset);
	l->peers = le32_to_cpu(s->peers);
	l->sessions = le32_to_cpu(s->sessions);
	memcpy(l->uuid, s->uuid, sizeof(l->uuid));
}

static void portal_layout_unknown(struct portal *p, const struct portal_super *s)
{
	if (le32_to_cpu(s->version) == PORTAL_LAYOUT_VERSION &&
	    !(le64_to_cpu(s->incompat) & ~PORTAL_INCOMPAT_KNOWN))
		dev_warn(portal_where(p),
			 "the protected part of %llu bytes does not end on a page of this kernel, of %lu\n",
			 le64_to_cpu(s->protected_size), PAGE_SIZE);
	else
		dev_warn(portal_where(p),
			 "layout of version %u with features %#llx, of which this module knows version %u and %#llx\n",
			 le32_to_cpu(s->version), le64_to_cpu(s->incompat),
			 PORTAL_LAYOUT_VERSION, PORTAL_INCOMPAT_KNOWN);
}

/*
 * Reads the superblock. 0 and *@l, or -ENODATA, -EUCLEAN, -EPROTONOSUPPORT; or -ENOMEM,
 * where the core has no mapping of its own, so never for one that takes part. The
 * caller sees to it that the region may be touched.
 */
int portal_layout_read(struct portal *p, struct portal_layout *l)
{
	static DEFINE_MUTEX(lock);	/* a leaf */
	static struct portal_super copy;
	struct portal_super *s = &copy;
	void *at;
	int ret;

	BUILD_BUG_ON(sizeof(*s) != PORTAL_SUPER_SIZE);
	/* A piece is whole pages, so the superblock is in the first. */
	if (p->size < PORTAL_LAYOUT_MIN)
		return -ENODATA;
	at = portal_region_look(p);
	if (!at)
		return -ENOMEM;
	mutex_lock(&lock);
	portal_super_copy(s, at);
	portal_region_unlook(p, at);
	ret = portal_super_judge(p, s);
	if (!ret)
		portal_layout_take(l, s);
	if (ret == -EPROTONOSUPPORT)
		portal_layout_unknown(p, s);
	mutex_unlock(&lock);
	return ret;
}

/* Whether the core has all of the tables mapped, for as long as the portal is there. */
bool portal_layout_mapped(const struct portal *p, const struct portal_layout *l)
{
	unsigned int i;

	for (i = 0; i < p->nr_pieces && p->pieces[i].offset < l->protected_size; i++) {
		if (!p->pieces[i].kva)
			return false;
	}
	return true;
}

static void *portal_table_at(const struct portal *p, u64 offset)
{
	const struct portal_piece *piece = portal_piece_at(p, offset);

	return piece->kva + (offset - piece->offset);
}

/**
 * portal_layout_gone() - was the region formatted anew?
 * @p: the portal, with self.lock held; it takes part
 *
 * Whoever formats swaps the magic first, and stores it last, with a new incarnation. So if the
 * magic is right after the incarnation was read, all is there that goes with that one, or it has
 * gone again. One that was merely overwritten does not fit the checksum, and changes nothing. The
 * sum is made in place, for callers may not sleep; and of so many incarnations between two
 * heartbeats, each once, for others may write new ones all the time.
 */
bool portal_layout_gone(struct portal *p)
{
	const struct portal_super *s = portal_table_at(p, 0);
	struct portal_self *self = &p->self;
	/* Acquire: the incarnation is not older. */
	u64 magic = le64_to_cpu(virt_load_acquire(&s->magic)), incarnation;

	while (magic == PORTAL_MAGIC) {
		/* Acquire: nor is the magic older that is looked at next. */
		incarnation = le64_to_cpu(virt_load_acquire(&s->incarnation));
		if (incarnation == self->layout.incarnation || incarnation == self->spoilt ||
		    self->nr_spoilt >= PORTAL_SPOILT_A_BEAT)
			return false;
		/* Acquire: nor is anything that is summed up. */
		magic = le64_to_cpu(virt_load_acquire(&s->magic));
		if (magic != PORTAL_MAGIC)
			break;
		if (portal_super_fits(s))
			return true;
		self->spoilt = incarnation;
		self->nr_spoilt++;
		/* It may have gone while it was summed up: what is looked at next is not older. */
		virt_rmb();
		/* Acquire: as above. */
		magic = le64_to_cpu(virt_load_acquire(&s->magic));
	}
	return magic == PORTAL_MAGIC_FORMATTING;
}

/**
 * portal_word_swap() - compare and swap a word of the tables
 * @p: the portal, with self.lock held; it takes part
 * @at: the word
 * @old: what is to stand there
 * @new: and then; if it is 0, @old is a claim
 *
 * A full barrier if it returns true. False: something else stood there, or there are no tables
 * any more. Whoever formats swaps the magic before he stores anything: so either he is seen here,
 * and the swap undone, or he comes after it, and zeroes it. A claim was random, and does not stand
 * in other tables: it was swapped for 0 before he came, and a 0 is his, or anybody's, by now.
 */
bool portal_word_swap(struct portal *p, __le64 *at, __le64 old, __le64 new)
{
	if (portal_layout_gone(p) || !portal_compat_cas64(at, old, new))
		return false;
	if (!portal_layout_gone(p))
		return true;
	if (new)
		portal_compat_cas64(at, new, old);
	return false;
}

/* Row @slot of the table of peers; below layout.peers. */
struct portal_peer *portal_peer_at(const struct portal *p, u32 slot)
{
	const struct portal_layout *l = &p->self.layout;

	return portal_table_at(p, l->peers_at + (u64)slot * sizeof(struct portal_peer));
}

/* Row @row of this machine's own block of sessions; below layout.sessions. */
struct portal_session *portal_session_at(const struct portal *p, u32 row)
{
	const struct portal_layout *l = &p->self.layout;
	u64 n = (u64)p->self.slot * l->sessions + row;

	return portal_table_at(p, l->sessions_at + n * sizeof(struct portal_session));
}

/*
 * Makes @len bytes at @to, which is shared, what @from says, a word at a time. Returns how
 * many words were not.
 */
unsigned int portal_words_put(void *to, const void *from, size_t len)
{
	const u64 *word = from;
	unsigned int n = 0;
	u64 *at = to;

	for (; len; len -= sizeof(*at), at++, word++) {
		if (READ_ONCE(*at) == *word)
			continue;
		WRITE_ONCE(*at, *word);
		n++;
	}
	return n;
}
