// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sessions: one process's use of a managed portal, and its end.
 *
 * A process is an address space (mm). Its session is over when no store by it is
 * possible any more, and then the row says so. What makes a store impossible:
 *
 *  - The mm has no user left: no thread, CLONE_VM and vfork() children included, no kernel
 *    thread that acts for it, no debugger in the middle of an access. exit_mmap() tells
 *    MMU notifiers then, before anything is unmapped. So do exec, kill, and the end of a
 *    core dump, but not one thread's exit. Copies of the descriptor do not matter, and
 *    copies of the mappings there are none (managed.c).
 *  - The last file that asked is released, and the process has nothing mapped any more
 *    through which it could write: not through any file of the portal. Else its mappings
 *    hold the session; when the last is gone, that is found out at the next heartbeat, or
 *    when the next file is released, which is before the portal goes.
 *  - The process says that it is done, and has nothing mapped so.
 *  - The portal is revoked, or this machine was declared dead: mappings were zapped, and
 *    the files cannot fault them in again.
 *
 * What a process maps after its session's end is nobody's, as of one that never asked. And
 * processors alone are meant: devices that the process lets write to such memory (VFIO's
 * mappings, shared virtual addressing) are not stopped by any of this. linux/portal.h says so.
 *
 * References. To register an MMU notifier takes all locks of the mm, among them those of
 * files that it shares with the whole machine. So that is done once: a process that has had
 * a session stays known (self.mms), for its next one, until its mm ends, or this machine takes
 * part no more, which is before the portal goes. Whoever forgets it, exactly one, under
 * self.lock, puts the notifier, and by its grace period struct portal_process is freed
 * (portal_process_free()). So a process that is known has a portal. An end that comes by the mm
 * races with all others, and with the portal's last reference: it asks for the portal under
 * portal_process_lock, and gets none when it is forgotten.
 *
 * Locks. self.lock is never held where mmap_lock is taken: a fault may hold that during a
 * pause, whose end needs self.lock. So a notifier is registered before the lock is taken,
 * for a process that another thread may have made known meanwhile.
 *
 * Lives of the rows of this machine's block are counted here, in private memory
 * (struct portal_row), so that a token is never given twice, whatever the row says.
 */
#include <linux/atomic.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/nospec.h>
#include <linux/pid.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uidgid.h>
#include <linux/wait_bit.h>

#include "../compat/mmend.h"
#include "core.h"
#include "trace.h"

/**
 * struct portal_process - a process that has a session, or can have one
 * @mn: of its mm, which it holds a reference to
 * @portal: NULL: not known yet, or no more. Under portal_process_lock
 * @by_mm: in portal_self.mms while it is known
 * @node: in portal_self.processes while it has a session, of which the rest is
 * @files: that hold it, by portal_handle.session_node
 * @row: in this machine's block
 * @window: begun by a window, and no file of open() has asked since
 * @unasked: no file holds it, its mappings do
 * @owner: of the file that began it
 * @bytes: what the row must say; life is in portal_self.rows
 *
 * All but @mn and @portal under self.lock.
 */
struct portal_process {
	struct mmu_notifier mn;
	struct portal *portal;
	struct hlist_node by_mm;
	struct list_head node;
	struct list_head files;
	u32 row;
	bool window;
	bool unasked;
	kuid_t owner;
	struct portal_session bytes;
};

/**
 * struct portal_row - a row of this machine's block, as it really is
 * @life: its word
 * @process: who has it, or NULL
 */
struct portal_row {
	u64 life;
	struct portal_process *process;
};

static DEFINE_SPINLOCK(portal_process_lock);

/*
 * How long who asks waits for this machine to join, in seconds, and in beats: a heart may have to
 * be listened to for three, from the beat on after which it was seen first.
 */
#define PORTAL_JOIN_WAIT	5
#define PORTAL_JOIN_BEATS	6

/* struct portal_process that are not freed yet; their end waits for a grace period. */
static atomic_t portal_processes = ATOMIC_INIT(0);

/* ---- Rows -------------------------------------------------------------------------- */

int portal_sessions_alloc(struct portal *p)
{
	p->self.rows = kvcalloc(p->self.layout.sessions, sizeof(*p->self.rows), GFP_KERNEL);
	p->self.next_row = 0;
	return p->self.rows ? 0 : -ENOMEM;
}

/*
 * The block of a slot that was just claimed: sequences go on where they were, and whoever
 * lives there is of before, and dead. @again: it was this machine's before, which knows
 * better.
 */
void portal_sessions_adopt(struct portal *p, bool again)
{
	u32 i;

	for (i = 0; i < p->self.layout.sessions; i++) {
		u64 life = le64_to_cpu(READ_ONCE(portal_session_at(p, i)->life));
		u64 known = again ? p->self.rows[i].life : 0;

		life = max(life, known) & ~(u64)0xffff;
		p->self.rows[i].life = life ? life | PORTAL_LIFE_DEAD : 0;
		cond_resched();
	}
}

/*
 * Whether rows of this machine's block say what it never stored (portal_life_ahead()): tokens
 * that it must not give again, or that a session is over, which is over then.
 */
bool portal_sessions_ahead(struct portal *p, u32 first, u32 n)
{
	struct portal_self *self = &p->self;
	u32 i, end = min(self->layout.sessions, first + n);

	for (i = first; i < end; i++) {
		u64 life = le64_to_cpu(READ_ONCE(portal_session_at(p, i)->life));

		if (portal_life_ahead(life, self->rows[i].life))
			return true;
		cond_resched();
	}
	return false;
}

/* What a row must say but for its life; from claim to name there is no reserved byte. */
static unsigned int portal_session_put(struct portal *p, u32 i)
{
	const size_t from = offsetof(struct portal_session, claim);
	const size_t to = offsetofend(struct portal_session, name);

	return portal_words_put((u8 *)portal_session_at(p, i) + from,
				(u8 *)&p->self.rows[i].process->bytes + from, to - from);
}

/* Makes @n rows from @first on what they must be. Returns how many words were not. */
unsigned int portal_sessions_put(struct portal *p, u32 first, u32 n)
{
	struct portal_self *self = &p->self;
	unsigned int wrong = 0;
	u32 i, end = min(self->layout.sessions, first + n);

	for (i = first; i < end; i++) {
		struct portal_session *at = portal_session_at(p, i);
		u64 life = self->rows[i].life;

		/* Each time: this machine may have been stopped, and the row be another's. */
		if (!portal_row_mine(p))
			break;
		if (READ_ONCE(at->life) != cpu_to_le64(life)) {
			if (!portal_life_put(p, &at->life, life, life))
				break;
			wrong++;
		}
		if (self->rows[i].process)
			wrong += portal_session_put(p, i);
		cond_resched();
	}
	return wrong;
}

/* How many sessions files of this user have begun. */
static u32 portal_owner_count(const struct portal *p, kuid_t owner)
{
	const struct portal_process *s;
	u32 n = 0;

	list_for_each_entry(s, &p->self.processes, node)
		n += uid_eq(s->owner, owner);
	return n;
}

/*
 * A row that is free, or -EUSERS: there is none for this file. Windows leave half of them
 * to others, and so that no user keeps others out, each but root has a quarter at most.
 */
static int portal_row_find(const struct portal_handle *h)
{
	struct portal *p = h->portal;
	struct portal_self *self = &p->self;
	u32 i;

	if (h->window && self->nr_windows >= self->layout.sessions / 2)
		return -EUSERS;
	if (!uid_eq(h->owner, GLOBAL_ROOT_UID) &&
	    portal_owner_count(p, h->owner) >= max(self->layout.sessions / 4, 1U))
		return -EUSERS;
	for (i = 0; i < self->layout.sessions; i++) {
		if (!self->rows[i].process &&
		    self->rows[i].life >> PORTAL_SLOT_BITS < PORTAL_SEQUENCE_MAX)
			return i;
	}
	return -EUSERS;
}

static u64 portal_token(struct portal *p, u32 row)
{
	return (p->self.rows[row].life & ~(u64)0xffff) |
	       ((u64)p->self.slot * p->self.layout.sessions + row);
}

static void portal_session_fill(struct portal *p, struct portal_session *s, u32 vector)
{
	char comm[TASK_COMM_LEN];

	memset(s, 0, sizeof(*s));
	s->claim = cpu_to_le64(p->self.claim);
	s->address = cpu_to_le32(p->self.address);
	s->vector = cpu_to_le32(vector);
	s->pid = cpu_to_le32(task_tgid_nr(current));
	s->uid = cpu_to_le32(from_kuid(&init_user_ns, current_uid()));
	s->started = cpu_to_le64(ktime_get_real_ns());
	get_task_comm(comm, current);
	portal_text_put(s->name, comm, sizeof(s->name));
}

/* ---- End ---------------------------------------------------------------------------- */

/*
 * After a grace period, with bottom halves off. From the last decrement on the module may
 * go: portal_sessions_module_exit().
 */
static void portal_process_free(struct mmu_notifier *mn)
{
	kfree(container_of(mn, struct portal_process, mn));
	if (atomic_dec_and_test(&portal_processes))
		wake_up_var(&portal_processes);
}

static void portal_file_drop(struct portal_handle *h)
{
	portal_mode_disown(h);
	h->process = NULL;
	list_del(&h->session_node);
}

/* The word: no store is possible any more. Maybe under mode_lock; the rest is to follow. */
void portal_session_over(struct portal *p, struct portal_process *s)
{
	struct portal_row *row = &p->self.rows[s->row];
	u64 known = row->life;

	row->life = (known & ~(u64)0xffff) | PORTAL_LIFE_DEAD;
	/* A barrier: who sees it sees all that the process stored. Pairs with readers' acquire. */
	if (portal_row_mine(p))
		portal_life_put(p, &portal_session_at(p, s->row)->life, known, row->life);
}

/* Once for each session; no store is possible any more. The process stays known. */
static void portal_process_end(struct portal *p, struct portal_process *s)
{
	struct portal_self *self = &p->self;
	struct portal_row *row = &self->rows[s->row];
	struct portal_handle *h, *next;

	list_for_each_entry_safe(h, next, &s->files, session_node)
		portal_file_drop(h);
	trace_portal_session(p->number, portal_token(p, s->row), false);
	if ((row->life & 0xffff) != PORTAL_LIFE_DEAD)
		portal_session_over(p, s);
	row->process = NULL;
	portal_row_changed(p);
	list_del_init(&s->node);
	self->nr_processes--;
	self->nr_windows -= s->window;
	self->nr_unasked -= s->unasked;
}

/* It has no session. Afterwards @s may be gone. */
static void portal_process_forget(struct portal_process *s)
{
	hash_del(&s->by_mm);
	spin_lock(&portal_process_lock);
	s->portal = NULL;
	spin_unlock(&portal_process_lock);
	mmu_notifier_put(&s->mn);
}

static bool portal_process_lives(const struct portal_process *s)
{
	return !list_empty(&s->node);
}

/* The mm has no user any more. By whoever dropped the last, maybe a worker. */
static void portal_process_release(struct mmu_notifier *mn, struct mm_struct *mm)
{
	struct portal_process *s = container_of(mn, struct portal_process, mn);
	struct portal *p;

	spin_lock(&portal_process_lock);
	p = s->portal;
	if (p)
		get_device(&p->dev);
	spin_unlock(&portal_process_lock);
	if (!p)
		return;
	mutex_lock(&p->self.lock);
	/* Only under both locks it changes to NULL. */
	if (s->portal) {
		if (portal_process_lives(s))
			portal_process_end(p, s);
		portal_process_forget(s);
	}
	mutex_unlock(&p->self.lock);
	put_device(&p->dev);
}

static const struct mmu_notifier_ops portal_process_ops = {
	.release = portal_process_release,
	.free_notifier = portal_process_free,
};

/* All of them. */
void portal_sessions_end(struct portal *p)
{
	struct portal_process *s, *next;

	list_for_each_entry_safe(s, next, &p->self.processes, node)
		portal_process_end(p, s);
}

/* No process has one, and none is known any more. */
void portal_sessions_free(struct portal *p)
{
	struct portal_process *s;
	struct hlist_node *next;
	int i;

	hash_for_each_safe(p->self.mms, i, next, s, by_mm)
		portal_process_forget(s);
	kvfree(p->self.rows);
	p->self.rows = NULL;
}

/* Ends a session that nothing holds: no file, and no mapping of its process. */
static void portal_process_idle(struct portal *p, struct portal_process *s)
{
	if (!list_empty(&s->files))
		return;
	if (!portal_mode_maps(p, s->mn.mm, s)) {
		portal_process_end(p, s);
		return;
	}
	p->self.nr_unasked += !s->unasked;
	s->unasked = true;
}

/* Those whose mappings held them, and are gone. */
void portal_sessions_idle(struct portal *p)
{
	struct portal_process *s, *next;

	if (!p->self.nr_unasked)
		return;
	list_for_each_entry_safe(s, next, &p->self.processes, node) {
		if (s->unasked)
			portal_process_idle(p, s);
	}
}

/*
 * Files that hold a session, or through which its process could write, reach nothing any
 * more, and never will.
 */
void portal_sessions_stale(struct portal *p)
{
	struct portal_process *s;
	struct portal_handle *h;

	list_for_each_entry(s, &p->self.processes, node) {
		list_for_each_entry(h, &s->files, session_node)
			portal_mode_end(h);
		portal_mode_stale(p, s->mn.mm);
	}
}

/* The file is released; nothing is mapped through it. */
void portal_session_release(struct portal_handle *h)
{
	struct portal *p = h->portal;
	struct portal_process *s;

	mutex_lock(&p->self.lock);
	s = h->process;
	if (s) {
		portal_file_drop(h);
		portal_process_idle(p, s);
	}
	portal_sessions_idle(p);
	mutex_unlock(&p->self.lock);
}

/* PORTAL_SESSION_END: this file needs it no more. */
static int portal_session_done(struct portal_handle *h)
{
	struct portal_process *s = h->process;

	if (!s)
		return -ENOENT;
	if (s->mn.mm != current->mm)
		return -EBUSY;
	if (list_is_singular(&s->files) && portal_mode_maps(h->portal, s->mn.mm, NULL))
		return -EBUSY;
	portal_file_drop(h);
	portal_process_idle(h->portal, s);
	return 0;
}

/* ---- Begin -------------------------------------------------------------------------- */

/* NULL: @mm is not known. */
static struct portal_process *portal_process_find(struct portal *p, const struct mm_struct *mm)
{
	struct portal_process *s;

	hash_for_each_possible(p->self.mms, s, by_mm, (unsigned long)mm) {
		if (s->mn.mm == mm)
			return s;
	}
	return NULL;
}

/*
 * Makes this process known, whose end will be heard from here on: 0, though another thread may
 * have been faster, or this machine may take no part any more. Then ask again.
 */
static int portal_process_add(struct portal *p)
{
	struct portal_process *s = kzalloc(sizeof(*s), GFP_KERNEL_ACCOUNT);
	int ret;

	if (!s)
		return -ENOMEM;
	INIT_LIST_HEAD(&s->node);
	INIT_LIST_HEAD(&s->files);
	s->mn.ops = &portal_process_ops;
	ret = mmu_notifier_register(&s->mn, current->mm);
	if (ret) {
		kfree(s);
		/* What it says if a signal came while it took the mm's locks. */
		return ret == -EINTR ? -ERESTARTSYS : ret;
	}
	atomic_inc(&portal_processes);
	ret = portal_self_lock(p);
	if (!ret && !p->self.error && !portal_process_find(p, current->mm)) {
		hash_add(p->self.mms, &s->by_mm, (unsigned long)current->mm);
		spin_lock(&portal_process_lock);
		s->portal = p;
		spin_unlock(&portal_process_lock);
		s = NULL;
	}
	if (!ret)
		portal_self_unlock(p);
	if (s)
		mmu_notifier_put(&s->mn);
	return ret;
}

/*
 * The row before the word that it is one: as in portal_row_begin(). Both words are barriers: a
 * reader's second look at life tells that the rest is changing, and the rest is seen by
 * whoever sees it alive. @known: the life before. False: the row is lost.
 */
static bool portal_session_store(struct portal *p, u32 i, u64 known)
{
	struct portal_session *at = portal_session_at(p, i);
	u64 life = p->self.rows[i].life;
	u64 joining = (life & ~(u64)0xffff) | PORTAL_LIFE_JOINING;

	if (!portal_life_put(p, &at->life, known, joining))
		return false;
	portal_session_put(p, i);
	return portal_life_put(p, &at->life, joining, life);
}

/*
 * In a free row @i. False: this machine lost its rows, so that another may give the
 * same token, or has; that is found out soon.
 */
static bool portal_process_begin(const struct portal_handle *h, struct portal_process *s, u32 i,
				 u32 vector)
{
	struct portal *p = h->portal;
	struct portal_self *self = &p->self;
	u64 known = self->rows[i].life, sequence = (known >> PORTAL_SLOT_BITS) + 1;
	bool stored;

	portal_session_fill(p, &s->bytes, vector);
	s->row = i;
	s->window = h->window;
	s->unasked = false;
	s->owner = h->owner;
	self->rows[i].process = s;
	self->rows[i].life = sequence << PORTAL_SLOT_BITS | PORTAL_LIFE_ALIVE;
	stored = portal_session_store(p, i, known);
	/*
	 * Who takes the slot claims it by a swap, and then reads where sequences go on. So
	 * either that claim is seen here, or this life is seen there.
	 */
	virt_mb();
	if (!stored || !portal_row_mine(p)) {
		self->rows[i].process = NULL;
		self->rows[i].life = sequence << PORTAL_SLOT_BITS | PORTAL_LIFE_DEAD;
		return false;
	}
	list_add_tail(&s->node, &self->processes);
	self->nr_processes++;
	self->nr_windows += s->window;
	portal_row_changed(p);
	trace_portal_session(p->number, portal_token(p, i), true);
	return true;
}

/* @h asks for @s, which is this process's. */
static int portal_process_join(struct portal_handle *h, struct portal_process *s, u32 vector)
{
	struct portal *p = h->portal;

	if (!h->process) {
		if (!portal_mode_alone(h, s->mn.mm, true))
			return -EBUSY;
		h->process = s;
		list_add_tail(&h->session_node, &s->files);
		p->self.nr_unasked -= s->unasked;
		s->unasked = false;
	}
	if (s->window && !h->window) {
		s->window = false;
		p->self.nr_windows--;
	}
	if (vector != PORTAL_SESSION_SILENT && s->bytes.vector == cpu_to_le32(PORTAL_VECTOR_NONE)) {
		s->bytes.vector = cpu_to_le32(vector);
		if (portal_row_mine(p))
			portal_session_put(p, s->row);
		portal_row_changed(p);
	}
	return 0;
}

/*
 * This process, @s, has no session yet. -EAGAIN: it is NULL, and must be made known.
 * -EINPROGRESS: this machine has no row, but may have one in a moment: a heart is being
 * listened to, or it has just been declared dead.
 */
static int portal_session_new(struct portal_handle *h, u32 vector, struct portal_process *s)
{
	struct portal *p = h->portal;
	int row;

	if (!p->self.joined)
		return p->self.full ? -EUSERS : -EINPROGRESS;
	if (!portal_row_mine(p))
		goto lost;
	row = portal_row_find(h);
	if (row < 0)
		return row;
	if (!portal_mode_alone(h, current->mm, !!s))
		return -EBUSY;
	/* That costs all locks of the mm, so who asks in vain has been told by now. */
	if (!s)
		return -EAGAIN;
	if (portal_process_begin(h, s, row, vector))
		return 0;
	portal_mode_disown(h);
lost:
	portal_look_soon(p);
	return -EINPROGRESS;
}

/* Under the lock. */
static int portal_session_ask(struct portal_handle *h, struct portal_session_begin *a)
{
	struct portal *p = h->portal;
	struct portal_process *s = portal_process_find(p, current->mm);
	int ret;

	if (portal_handle_stale(h))
		return -ESTALE;
	if (p->self.error)
		return p->self.error;
	/* A token would be one of what is no more. */
	if (portal_layout_gone(p)) {
		portal_look_soon(p);
		return -ESTALE;
	}
	if (a->flags & PORTAL_SESSION_END)
		return portal_session_done(h);
	if (h->process && h->process != s)
		return -EBUSY;
	if (!s || !portal_process_lives(s)) {
		ret = portal_session_new(h, a->vector, s);
		if (ret)
			return ret;
	}
	ret = portal_process_join(h, s, a->vector);
	if (ret)
		return ret;
	a->peer = p->self.slot;
	a->token = portal_token(p, s->row);
	a->incarnation = p->self.layout.incarnation;
	return 0;
}

static int portal_session_try(struct portal_handle *h, struct portal_session_begin *a)
{
	int ret;

	ret = portal_self_lock(h->portal);
	if (ret)
		return ret;
	ret = portal_session_ask(h, a);
	portal_self_unlock(h->portal);
	if (ret == -EAGAIN)
		ret = portal_process_add(h->portal) ?: -EAGAIN;
	return ret;
}

/* PORTAL_SESSION; the vector is one of @h's, or none. */
int portal_session(struct portal_handle *h, struct portal_session_begin *a)
{
	unsigned long end = jiffies + max_t(unsigned long, PORTAL_JOIN_WAIT * HZ,
					    PORTAL_JOIN_BEATS * portal_beat_period());
	int ret;

	for (;;) {
		ret = portal_session_try(h, a);
		if (ret == -EAGAIN)
			continue;
		if (ret != -EINPROGRESS)
			return ret;
		if (time_after(jiffies, end))
			return -EUSERS;
		schedule_timeout_interruptible(HZ / 50);
		if (signal_pending(current))
			return -ERESTARTSYS;
	}
}

/* For /proc/PID/fdinfo. */
void portal_session_show(struct seq_file *m, struct portal_handle *h)
{
	struct portal *p = h->portal;

	mutex_lock(&p->self.lock);
	if (h->process)
		seq_printf(m, "portal-session:\t%llu\n", portal_token(p, h->process->row));
	mutex_unlock(&p->self.lock);
}

/*
 * Sessions are over; frees that are under way have to end before the code goes. Not
 * mmu_notifier_synchronize(): that waits for a grace period, not for what is called after one,
 * by other processors. That runs with bottom halves off, which is a reader of RCU: so the
 * rest of the last one is over, too.
 */
void portal_sessions_module_exit(void)
{
	wait_var_event(&portal_processes, !atomic_read(&portal_processes));
	synchronize_rcu();
}
