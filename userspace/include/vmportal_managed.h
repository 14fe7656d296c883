/* SPDX-License-Identifier: MIT */
/*
 * libvmportal: managed portals. A part of <vmportal.h>, which includes it, and whose
 * rules of returns, timeouts and threads hold here too.
 */
#ifndef VMPORTAL_MANAGED_H
#define VMPORTAL_MANAGED_H

#include <vmportal.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Managed portals ------------------------------------------------------ */

/*
 * A managed portal's region begins with a superblock, tables of peers and sessions, and
 * a directory of objects: portal-layout(5). What follows first lays it out and looks at it.
 * Everything there is other machines' word: it is checked for form, not for truth, and
 * texts are valid UTF-8 without control characters ('?' in place of what was not).
 *
 * All of these: -ENODATA: not a managed portal; -EUCLEAN: its superblock is so damaged
 * that nothing can be found; -EPROTONOSUPPORT: it has features that this library does
 * not know; -ESTALE: it was formatted anew since it was opened. Sizes of structures as with vmp_get_info().
 */

/* vmp_format_opts.flags */
#define VMP_FORMAT_FORCE	(1U << 0) /* even if something is there */
#define VMP_FORMAT_IN_USE	(1U << 1) /* even if peers are there that are not dead */

/**
 * struct vmp_format_opts - how to lay a region out
 * @size: sizeof(struct vmp_format_opts)
 * @flags: VMP_FORMAT_*
 * @peers: machines, 1 .. 4096, the host's slot included; 0: 16
 * @sessions: of each peer, peers * sessions <= 65536; 0: 64, or what fits
 * @objects: named objects, 1 .. 65536; 0: what fits
 * @uuid: all 0: random
 * @name: UTF-8, may be empty
 */
struct vmp_format_opts {
	uint32_t size;
	uint32_t flags;
	uint32_t peers;
	uint32_t sessions;
	uint32_t objects;
	uint32_t reserved;
	uint8_t uuid[16];
	char name[64];
};

/**
 * vmp_format() - make the portal a managed one
 * @o: NULL: all defaults
 *
 * Close its channels, hubs and objects first, and give its locks back; and no other thread may be
 * in a call with @p. All before the data is overwritten; the data are left as they are, but
 * this process cannot write to what are tables now (SIGSEGV). Whoever has it open as a managed portal, with VMP_FORMAT_IN_USE, has nothing in it
 * any more but what he has mapped: each call that goes by the tables, its locks, objects and
 * channels by name say -ESTALE, and he closes it and opens it anew; so does this process, if it
 * had a session. Whoever has it open as a raw one goes on as before, and takes it for that.
 * So does a device's kernel, unless the caller is root and nobody else has it mapped: then
 * vmp_info.mode stays VMP_MODE_RAW, vmp_errmsg() says why, and the mode is fixed anew when
 * the device is.
 * -EEXIST: formatted already; -ENOTEMPTY: raw, with something in it; -EBUSY: peers are
 * there, or somebody else writes at this moment; -EFBIG: the region is too small;
 * -EINVAL: numbers, or a name, that cannot be; -ENAMETOOLONG: a name of more than 63 bytes;
 * -EACCES: opened VMP_RDONLY.
 */
int vmp_format(struct vmp *p, const struct vmp_format_opts *o);

/**
 * vmp_set_mode() - have the portal taken for raw, or for managed
 * @mode: VMP_MODE_*; VMP_MODE_MANAGED looks at the superblock anew
 *
 * Close what is open, and have no other thread in a call, as before vmp_format(); what is open
 * still says -ESTALE, or -ENODATA. Of a device it is the kernel that changes its mind, for
 * everybody: -EPERM: not root; -EBUSY: somebody else has it mapped. Of others only this
 * object does. -ENODATA: there is no superblock; -EUCLEAN: it is damaged.
 */
int vmp_set_mode(struct vmp *p, uint32_t mode);

#define VMP_AREAS	7	/* peers, sessions, directory, objects, uses, pending, data */

/* vmp_layout.flags */
#define VMP_LAYOUT_DAMAGED	(1U << 0) /* the superblock is; vmp_check() says how */

/**
 * struct vmp_layout - where everything is, and the state of the directory
 * @version: of the layout
 * @size, @protected_size: bytes laid out; bytes that are mapped read-only
 * @incarnation: which formatting this is: tokens are relative to it
 * @created: nanoseconds since 1970
 * @peers, @sessions, @objects, @uses: rows: of the peer table, of each peer's block of
 *	sessions, of objects, of uses
 * @generation: of the directory; odd while a change is being stored
 * @lock_owner, @lock_previous: tokens, 0: none
 * @redo: the generation that the change under way leads to, 0: none
 * @area: in the order given at VMP_AREAS
 */
struct vmp_layout {
	uint32_t version;
	uint32_t flags;
	uint64_t size, protected_size;
	uint64_t incarnation, created;
	uint64_t incompat, compat;
	uint32_t peers, sessions, objects, uses;
	uint64_t generation;
	uint64_t lock_owner, lock_previous, lock_count;
	uint64_t redo;
	uint32_t lock_flags, redo_count;
	uint8_t uuid[16];
	char name[64];
	char creator[32];
	struct {
		uint64_t offset, length;
		uint32_t stride, count;
	} area[VMP_AREAS];
};

int vmp_get_layout(struct vmp *p, struct vmp_layout *l, size_t l_size);

/* States of peers and sessions. */
#define VMP_STATE_NONE		0 /* the row was never used */
#define VMP_STATE_JOINING	1
#define VMP_STATE_ALIVE		2
#define VMP_STATE_ASLEEP	3 /* a peer that said it is suspended */
#define VMP_STATE_DEAD		4 /* left, or proven dead */
#define VMP_STATE_SUSPECT	5 /* a peer whose connection was lost: nobody knows */

/**
 * struct vmp_peer - a machine's row
 * @state: VMP_STATE_*; whether its heart beats is for who looks twice
 * @kind: 1 a guest, 2 the host
 * @address: peer id for vmp_ring(), or VMP_PEER_NONE
 * @notice: the vector that it is rung by when a table changes; all ones: none
 * @reason: of the last verdict: 1 process ended, 2 cut, 3 rescinded, 4 fenced, 5 silent:
 *	its heart stood still
 * @sequence: counts who had this row
 * @joined: nanoseconds since 1970, by its clock
 * @heartbeat: counts; @heartbeat_ms: how often it says it does, 0: not
 */
struct vmp_peer {
	uint32_t slot, state, kind, address;
	uint32_t vectors, notice, heartbeat_ms, reason;
	uint64_t sequence, incarnation, joined, heartbeat, changes;
	uint8_t machine[16];
	char name[64];
};

/* Row @slot. -EINVAL: there are fewer. */
int vmp_get_peer(struct vmp *p, uint32_t slot, struct vmp_peer *peer, size_t peer_size);

/**
 * struct vmp_session - a process's row
 * @slot: its number; @peer: its machine's
 * @token: which session for ever, or 0: none yet
 * @state: VMP_STATE_*; dead too if its machine is
 */
struct vmp_session {
	uint32_t slot, peer, state, address;
	uint32_t vector, pid, uid, reserved;
	uint64_t token, started;
	char name[32];
};

int vmp_get_session(struct vmp *p, uint32_t slot, struct vmp_session *s, size_t s_size);

#define VMP_OBJECT_MAKING	1 /* being zeroed by who makes it: nobody can open it yet */
#define VMP_OBJECT_NAMED	2
#define VMP_OBJECT_UNLINKED	3

/**
 * struct vmp_object - a row of the directory
 * @state: VMP_OBJECT_*; any other: free
 * @id: which object, for ever; what vmp_use.object says
 * @kind: 1 raw, 2 channel; @format: version of the kind's bytes
 * @bytes: asked for, at most @length
 */
struct vmp_object {
	uint32_t row, state, kind, format;
	uint32_t mode, flags;
	uint64_t id, offset, length, bytes, creator, created;
	char name[64];
};

int vmp_get_object(struct vmp *p, uint32_t row, struct vmp_object *o, size_t o_size);

/* One session has one object open; @object 0: the row is free. */
struct vmp_use {
	uint64_t object, token;
};

int vmp_get_use(struct vmp *p, uint32_t row, struct vmp_use *u, size_t u_size);

/**
 * struct vmp_damage - something that vmp_check() found
 * @name: which kind, one of portal-layout(5)'s; @text: a sentence about it
 * @where: "superblock", "peer" ...; @index: which, UINT32_MAX: there is one only
 * @note: non-zero: no damage, but what a dead one left and the next user clears away
 * @offset: byte of the region; @value: what stands there
 */
struct vmp_damage {
	const char *name, *text, *where;
	uint32_t index, note;
	uint64_t offset, value;
};

typedef void (*vmp_damage_fn)(void *arg, const struct vmp_damage *d);

/*
 * Look at everything but the data, and tell @fn of each damage. How many there are, notes
 * not counted. May run while the portal is in use. -ENOMEM.
 */
int vmp_check(struct vmp *p, vmp_damage_fn fn, void *arg);

/* ---- Sessions: who is there, and who died ---------------------------------- */

/*
 * A session is this process's use of a managed portal. The kernel (of a device) or portald
 * (of unix:) ends it when no store by this process is possible any more, however it ends,
 * and tells the others. Its token names it for ever, relative to vmp_layout.incarnation.
 * The calls below need one and make it at their first use:
 *
 *	-EOPNOTSUPP  nobody would tell the others of this process's death: file:, memfd:,
 *		     vmp_pair(), vmp_attach(), a kernel or portald that is too old
 *	-EUSERS	     no free row: too many sessions of this machine, or machines
 *	-ESTALE	     this process's session is over: its machine was declared dead, or was
 *		     suspended and came back as another; or the portal was formatted. Close it,
 *		     open it anew
 *	-EUCLEAN     the portal was formatted with other numbers than those of its portald, which
 *		     keeps away from it: format it with those, or stop portald and start it
 *	-EACCES	     opened VMP_RDONLY
 *	-EBUSY	     this is a child of the process that opened the portal; or another process
 *		     has a session through the same open file of a device (fd:); or portald has
 *		     not answered a vmp_fence() that waited in vain
 *	-ENOTCONN    portald's connection is lost: close the portal, open it anew
 *	-ETIMEDOUT   portald does not answer within 10 seconds; when it has, the next call has it
 */

/**
 * vmp_join() - this process's session
 * @token: set to its token; may be NULL
 *
 * The same at each call. It ends with the process, or when its last portal object of
 * this portal is closed.
 */
int vmp_join(struct vmp *p, uint64_t *token);

/**
 * vmp_token_state() - how the session of a token stands
 *
 * VMP_STATE_ALIVE; VMP_STATE_SUSPECT: its machine is suspect, or asleep: it may go on at
 * any time; or portald, which would tell of its end, is gone (close the portal and open it
 * anew), and it is another process of the host, or its machine's heart, which each process then
 * hears by these calls itself, has stood still for three beats, or there is none;
 * VMP_STATE_DEAD: it stores nothing any more, and what it stored is visible to who was told so;
 * that does not change again. -ESTALE: 0, or never given out.
 */
int vmp_token_state(struct vmp *p, uint64_t token);

/**
 * vmp_watch_fd() - a descriptor that is readable (POLLIN) when a table may have changed
 *
 * Peers, sessions, objects; or what was changed from one state to another and back.
 * Nobody needs a session to watch; who can have none is told of objects by the clock, once
 * a second. Everybody is told so once in ten seconds, for words in the region that tell him
 * may have been overwritten. Call vmp_watch_clear(), then look. The library's own.
 */
int vmp_watch_fd(struct vmp *p);
int vmp_watch_clear(struct vmp *p);

/**
 * vmp_fence() - declare a machine dead
 * @slot: of the peer table
 *
 * By an administrator, who knows that it is, or that it will never touch the memory
 * again: what it held is given to others. It cannot be taken back. Its kernel, if it runs
 * after all, takes the memory from its processes as soon as it reads of it. -EPERM: not
 * root (portald's own user, for unix:); -ESRCH: nobody is there; -ESTALE: another
 * machine has the slot by now; -EINVAL: no such slot, or, through unix:, portald's own;
 * -EOPNOTSUPP: nobody here can; -EACCES: a device opened VMP_RDONLY, or a window. Through unix: also -ENOTCONN, -ETIMEDOUT, and -EBUSY after that,
 * as vmp_join().
 */
int vmp_fence(struct vmp *p, uint32_t slot);

/* ---- Robust locks ----------------------------------------------------------- */

#define VMP_LOCK_SIZE	128	/* bytes of a lock */
#define VMP_LOCK_ALIGN	64

/**
 * vmp_lock() - lock, between processes of all machines
 * @lock: VMP_LOCK_SIZE bytes in the data of a managed portal, at a multiple of
 *	VMP_LOCK_ALIGN; all zeroes are a free lock
 *
 * 0, or
 *	-EOWNERDEAD	 it is locked, and who had it before died in the midst of it: put
 *			 right what it protects, call vmp_lock_repaired(), go on
 *	-ENOTRECOVERABLE somebody had to do that and unlocked without it
 *	-EDEADLK	 this process has it. Threads of one process need a mutex of their
 *			 own around it
 *	-EPROTO		 its owner is nobody who ever was: the memory was overwritten
 *	-EAGAIN, -ETIMEDOUT  somebody has it who is alive, or suspect
 *
 * An owner loses it only when proven dead, and then stores nothing any more. (After
 * vmp_fence() the administrator vouches for that.) Not fair: who comes first after an
 * unlock gets it. Who waits is woken by the unlock; at the latest it looks every 100 ms.
 */
int vmp_lock(struct vmp *p, void *lock, int timeout_ms);

/* What the dead owner left is in order again. -EPERM: this process does not have the lock. */
int vmp_lock_repaired(struct vmp *p, void *lock);

/* -EPERM: this process does not have it, or not any more. */
int vmp_unlock(struct vmp *p, void *lock);

/* ---- Objects by name --------------------------------------------------------- */

/*
 * The directory of a managed portal: pieces of its data with a name, like shm_open(3)'s.
 * They outlive who made them. An object that is unlinked lives on until its last user
 * has closed it, or has died. Calls that change the directory wait 10 seconds at most for
 * who changes it at the moment, or makes what is to be opened (-ETIMEDOUT; a dead one's
 * change is finished for it), and for no one else.
 *
 * Any thread may use an open object. Close it before the portal.
 */
struct vmp_named;

#define VMP_NAME_MAX	63	/* bytes of a name */

/* vmp_named_open() flags */
#define VMP_CREATE	(1U << 0) /* make it if it is not there */
#define VMP_EXCL	(1U << 1) /* with VMP_CREATE: -EEXIST if it is */
#define VMP_EPHEMERAL	(1U << 2) /* with VMP_CREATE: unlinked when its last user goes */

/**
 * vmp_named_open() - open an object, or make it
 * @n: set on success; the caller owns it until vmp_named_close()
 * @name: 1 .. 63 bytes of UTF-8 without '/' and control characters; not "." or ".."
 * @flags: VMP_*
 * @bytes: how many it must have at least; 0: any number (not with VMP_CREATE)
 * @mode: 0 .. 0777 of one that is made: advice, shown to others; no protection
 *
 * A new one is all zeroes, and is there for others only then.
 * -ENAMETOOLONG, -EINVAL (name, flags), -ENOENT, -EEXIST; -ENOSPC: no room, or the table
 * is full; -EPROTOTYPE: an object of another kind (a channel); -ERANGE: it is
 * there, but smaller; -EPROTO: the directory is broken: portalctl check.
 */
int vmp_named_open(struct vmp_named **n, struct vmp *p, const char *name,
		   unsigned int flags, uint64_t bytes, uint32_t mode);

/* Its bytes in this process; valid until vmp_named_close(). @bytes may be NULL. */
void *vmp_named_data(struct vmp_named *n, size_t *bytes);

/* Its row of the directory as it is now. -ESTALE: it is not there any more. */
int vmp_named_info(struct vmp_named *n, struct vmp_object *o, size_t o_size);

/*
 * This process does not use it any more; @n is freed in any case. After an error the
 * object is in use until the session ends. NULL is allowed.
 */
int vmp_named_close(struct vmp_named *n);

/* The name is free again, at once. -ENOENT; else as vmp_named_open(). */
int vmp_named_unlink(struct vmp *p, const char *name);

#ifdef __cplusplus
}
#endif

#endif /* VMPORTAL_MANAGED_H */
