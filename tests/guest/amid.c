// SPDX-License-Identifier: MIT
/*
 * amid DEVICE GO BACK: calls that are in the middle when the portal goes.
 *
 * The kernel looks at a portal, then touches the caller's memory, then looks again;
 * userfaultfd(2) makes the middle last as long as we like. GO takes the portal away
 * meanwhile (revoke.c has examples), so what the first look saw is no more. Then a
 * reader whose buffer is bad gives back events, or a change of a managed portal's tables,
 * that another thread is waiting for. It formats the region for that, and leaves it raw.
 * TAP; exit status 0 if all went well, 1 otherwise.
 */
#include "super.h"

#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <time.h>

#define PATIENCE_MS	PATIENT_MS

static size_t page;

/* Two pages of which the second is not there until we say so. */
struct hole {
	unsigned char *at;	/* the first page */
	int uffd;
};

static bool hole_open(struct hole *h)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = { .mode = UFFDIO_REGISTER_MODE_MISSING };

	/* Without O_NONBLOCK it may not be polled. */
	h->uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (h->uffd < 0)
		return false;
	h->at = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (h->at == MAP_FAILED)
		die("mmap");
	reg.range.start = (uintptr_t)h->at + page;
	reg.range.len = page;
	if (ioctl(h->uffd, UFFDIO_API, &api) || ioctl(h->uffd, UFFDIO_REGISTER, &reg))
		die("userfaultfd");
	return true;
}

/* Somebody stands before the hole. */
static bool hole_wait(const struct hole *h)
{
	struct uffd_msg m;

	return wait_for(h->uffd, POLLIN, PATIENCE_MS) & POLLIN &&
	       read(h->uffd, &m, sizeof(m)) == sizeof(m);
}

static void hole_fill(const struct hole *h, const void *bytes, size_t n)
{
	unsigned char *whole = calloc(1, page);
	struct uffdio_copy c = { .dst = (uintptr_t)h->at + page, .len = page };

	if (n)
		memcpy(whole, bytes, n);
	c.src = (uintptr_t)whole;
	if (ioctl(h->uffd, UFFDIO_COPY, &c))
		die("UFFDIO_COPY");
	free(whole);
}

/* A call with its argument half in the hole, and what came of it. */
struct call {
	const char *name;
	unsigned long cmd;	/* 0: read() */
	size_t size;
	unsigned char bytes[sizeof(struct portal_info)];
	struct hole hole;
	int fd;
	pthread_t thread;
	long result;
	int error;
};

static void *call_thread(void *arg)
{
	struct call *c = arg;

	if (c->cmd)
		c->result = ioctl(c->fd, c->cmd, c->hole.at + page - sizeof(uint32_t));
	else
		c->result = read(c->fd, c->hole.at + page, c->size);
	c->error = errno;
	return NULL;
}

static void call_start(struct call *c, const char *device)
{
	c->fd = open_portal(device, O_RDWR);
	if (!hole_open(&c->hole))
		die("userfaultfd");
	/* The size is there at once; the rest is not. */
	if (c->cmd)
		memcpy(c->hole.at + page - sizeof(uint32_t), &c->size, sizeof(uint32_t));
	else
		ring(c->fd, get_info(c->fd).peer_id, 0);
	pthread_create(&c->thread, NULL, call_thread, c);
	ok(hole_wait(&c->hole), "%s is in the middle", c->name);
}

static void call_end(struct call *c)
{
	hole_fill(&c->hole, c->bytes + sizeof(uint32_t), c->size - sizeof(uint32_t));
	pthread_join(c->thread, NULL);
	/* What was decided, or taken, before it went may still succeed; else ENODEV. */
	if (c->cmd == PORTAL_FILE || !c->cmd)
		ok(c->result >= 0 || c->error == ENODEV, "%s ends well (%ld)", c->name, c->result);
	else
		ok(c->result == -1 && c->error == ENODEV, "%s ends in ENODEV (%ld, %d)", c->name,
		   c->result, c->error);
}

static void goes_amid(const char *device, const char *go, const char *back, bool events)
{
	int efd = eventfd(0, EFD_CLOEXEC), n, i;
	/* Without doorbells the first and the last two are refused at once. */
	int first = events ? 0 : 1, end = events ? 5 : 3;
	struct portal_eventfd bind = { .size = sizeof(bind), .fd = efd };
	struct call calls[] = {
		{ .name = "PORTAL_RING", .cmd = PORTAL_RING, .size = sizeof(struct portal_ring) },
		{ .name = "PORTAL_INFO", .cmd = PORTAL_INFO, .size = sizeof(struct portal_info) },
		{ .name = "PORTAL_FILE", .cmd = PORTAL_FILE, .size = sizeof(struct portal_file) },
		{ .name = "PORTAL_EVENTFD", .cmd = PORTAL_EVENTFD, .size = sizeof(struct portal_eventfd) },
		{ .name = "read()", .cmd = 0, .size = sizeof(struct portal_event) },
	};

	memcpy(calls[3].bytes, &bind, sizeof(bind));
	for (i = first; i < end; i++)
		call_start(&calls[i], device);
	ok(system(go) == 0, "it goes: %s", go);
	for (i = first; i < end; i++)
		call_end(&calls[i]);
	ok(!count_of(efd), "an eventfd that came too late is not bound");
	for (i = first; i < end; i++)
		close(calls[i].fd);
	ok(system(back) == 0, "it comes back: %s", back);
	for (n = 0; n < PATIENT_MS / 100 && access(device, F_OK); n++)
		usleep(100000);
}

static void *poll_thread(void *arg)
{
	struct timespec a, b;
	short got;

	clock_gettime(CLOCK_MONOTONIC, &a);
	got = wait_for(*(int *)arg, POLLIN, PATIENCE_MS);
	clock_gettime(CLOCK_MONOTONIC, &b);
	return (void *)(uintptr_t)(got & POLLIN && b.tv_sec - a.tv_sec < PATIENCE_MS / 2000);
}

/* What a reader could not take is another's to hear of. */
static void gives_back(const char *device)
{
	struct call c = { .name = "read()", .size = sizeof(struct portal_event) };
	struct uffdio_range range;
	struct portal_event ev;
	pthread_t poller;
	void *woke;

	call_start(&c, device);
	ok(!wait_for(c.fd, POLLIN, 0), "nothing is left for others");
	pthread_create(&poller, NULL, poll_thread, &c.fd);
	usleep(500000);
	mprotect(c.hole.at + page, page, PROT_NONE);
	range = (struct uffdio_range){ (uintptr_t)c.hole.at + page, page };
	ioctl(c.hole.uffd, UFFDIO_WAKE, &range);
	pthread_join(c.thread, NULL);
	ok(c.result == -1 && c.error == EFAULT, "its buffer is bad: EFAULT");
	pthread_join(poller, &woke);
	ok(woke != NULL, "who sleeps in poll() wakes for what was given back");
	ok(wait_for(c.fd, POLLIN, 0) & POLLIN &&
	   read(c.fd, &ev, sizeof(ev)) == sizeof(ev) && ev.vector == 0 && ev.count == 1,
	   "and may read it");
	close(c.fd);
}

/* How many changes a file has not seen, when no more come; they are read. */
static uint64_t changes(int file)
{
	struct portal_event ev;
	uint64_t n = 0;

	while (wait_for(file, POLLPRI, 500) & POLLPRI) {
		if (read(file, &ev, sizeof(ev)) == sizeof(ev) && ev.type == PORTAL_EVENT_CHANGE)
			n += ev.count;
	}
	return n;
}

struct reader {
	int fd;
	bool polls;
	volatile pid_t tid;
	struct portal_event ev;
	ssize_t got;
};

static void *read_thread(void *arg)
{
	struct reader *r = arg;

	r->tid = syscall(SYS_gettid);
	if (r->polls)
		wait_for(r->fd, POLLPRI, 2 * PATIENCE_MS);
	r->got = read(r->fd, &r->ev, sizeof(r->ev));
	return NULL;
}

/*
 * The same of changes, by a file of open() or a window: who sleeps for one, in read() or poll(),
 * gets it.
 */
static void gives_back_changes(const char *device, int fd, bool window, bool polls)
{
	struct call c = { .name = "read() of a change", .size = sizeof(struct portal_event) };
	int watch = open_portal(device, O_RDWR);
	struct reader r = { .polls = polls };
	struct uffdio_range range;
	struct timespec end;
	pthread_t reader;
	uint64_t n;

	c.fd = window ? plain_window(fd, 0, 0, PORTAL_UNIT) : open_portal(device, O_RDWR);
	r.fd = c.fd;
	if (!hole_open(&c.hole))
		die("userfaultfd");
	token_of(fd);
	session(fd, PORTAL_SESSION_END, 0, NULL);
	n = changes(watch);
	pthread_create(&c.thread, NULL, call_thread, &c);
	ok(n && hole_wait(&c.hole), "%s is in the middle%s", c.name, window ? ", by a window" : "");
	ok(!wait_for(c.fd, POLLPRI, 0), "nothing is left for others");
	pthread_create(&reader, NULL, read_thread, &r);
	ok(UNTIL(is_asleep(r.tid), PATIENCE_MS), "another one sleeps in %s", polls ? "poll()" : "read()");
	mprotect(c.hole.at + page, page, PROT_NONE);
	range = (struct uffdio_range){ (uintptr_t)c.hole.at + page, page };
	ioctl(c.hole.uffd, UFFDIO_WAKE, &range);
	pthread_join(c.thread, NULL);
	ok(c.result == -1 && c.error == EFAULT, "its buffer is bad: EFAULT");
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += PATIENCE_MS / 1000;
	if (ok(!pthread_timedjoin_np(reader, NULL, &end), "the other one wakes for what was given back"))
		ok(r.got == sizeof(r.ev) && r.ev.type == PORTAL_EVENT_CHANGE && r.ev.count == n,
		   "and gets all of it (%llu of %llu)", (unsigned long long)r.ev.count, (unsigned long long)n);
	close(c.fd);
	close(watch);
}

static void changes_given_back(const char *device)
{
	int fd = open_portal(device, O_RDWR);
	void *super;

	make_managed(fd);
	if (has_sessions(fd)) {
		gives_back_changes(device, fd, false, false);
		gives_back_changes(device, fd, false, true);
		gives_back_changes(device, fd, true, false);
	}
	ok(!set_mode(fd, PORTAL_MODE_RAW), "raw");
	/* Memory of a device outlives its driver: what probes it next is to find none. */
	super = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (super == MAP_FAILED)
		die("mmap");
	memset(super, 0, page);
	munmap(super, page);
	close(fd);
}

int main(int argc, char **argv)
{
	struct hole probe;
	bool events;
	int fd;

	if (argc != 4) {
		fprintf(stderr, "usage: amid DEVICE GO BACK\n");
		return 2;
	}
	start(120);
	page = sysconf(_SC_PAGESIZE);
	if (!hole_open(&probe)) {
		skip("calls in the middle", "this kernel has no userfaultfd()");
		return done();
	}
	fd = open_portal(argv[1], O_RDWR);
	events = get_info(fd).vectors && get_info(fd).caps & PORTAL_CAP_DOORBELL;
	close(fd);
	if (events)
		gives_back(argv[1]);
	else
		skip("what a reader gives back", "no vectors");
	changes_given_back(argv[1]);
	goes_amid(argv[1], argv[2], argv[3], events);
	return done();
}
