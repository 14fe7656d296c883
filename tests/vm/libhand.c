// SPDX-License-Identifier: MIT
/*
 * A hand on a portal by the library: one order a line, one line an answer. What hand.c
 * is for a device, this is for any URI, such as the socket of a VMBus guest's host.
 *
 *	open URI		vmp_open()
 *	info			"ok size=... peer=... vectors=... generation=..."
 *	get OFFSET | put OFFSET VALUE	a 64-bit word
 *	fill OFFSET LEN SEED	a pattern of 64-bit words
 *	check OFFSET LEN SEED	look for it
 *	add OFFSET N		N locked adds of 1
 *	ring PEER VECTOR [N]	vmp_ring(), N times
 *	wait VECTOR MS		wait for the vector's eventfd, read it
 *	echo VECTOR PEER V2 N	N times: wait for VECTOR, ring PEER's V2
 *	packets VECTOR		open the vector's packet rings as a channel
 *	send LEN		a packet of LEN zeroes: "ok", or an error after 3 s
 *	recv MS			"ok LEN", or an error
 *	join			this process's session: "ok TOKEN"
 *	state TOKEN		vmp_token_state(): "ok N"
 *	name NAME BYTES		open the object, or make it: "ok OFFSET BYTES"
 *	leave			close it
 *	lock MS | unlock | repaired	the lock at its start
 *	watch MS		wait until a table has changed; what came before is told at once
 *	hub NAME [FLAGS]	vmp_hub_open()
 *	hears MS		as watch; then the hub must have heard of the change, too, or "deaf"
 *	from MS			vmp_hub_recv() of a hub with VMP_HUB_EVENTS: "ok EVENT TOKEN"
 *	channel NAME		vmp_channel_named()
 *	end			vmp_channel_peer_state(): "ok N"
 *	fence SLOT		vmp_fence()
 *	blocking VECTOR [N]	make the vector's eventfd a blocking one, and write N to it
 *	hangup			close the socket alone: the memory stays mapped
 *	close | exit
 *
 * Answers: "ok ...", "err ENODEV", "sigbus", "timeout", "wrong OFFSET".
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vmportal.h>
#include <vmportal_hub.h>

static struct vmp *portal;
static struct vmp_channel *channel;
static struct vmp_named *object;
static struct vmp_hub *hub;
static volatile uint64_t *words;
static size_t size;
static sigjmp_buf bus;

static void on_bus(int sig)
{
	(void)sig;
	siglongjmp(bus, 1);
}

static void result(int r)
{
	if (r >= 0)
		puts("ok");
	else
		printf("err %s %s\n", strerrorname_np(-r), vmp_errmsg());
}

static void do_open(const char *uri)
{
	void *base = NULL;
	int r = vmp_open(&portal, uri, 0);

	if (!r) {
		r = vmp_map(portal, &base, &size);
		words = base;
	}
	result(r);
}

static void do_info(void)
{
	struct vmp_info i;
	int r = vmp_get_info(portal, &i, sizeof(i));

	if (r)
		result(r);
	else
		printf("ok size=%" PRIu64 " peer=%u max_peers=%u vectors=%u generation=%u caps=%u identity=%s\n",
		       i.size, i.peer_id, i.max_peers, i.vectors, i.generation, i.caps,
		       i.identity);
}

/* A word that differs in each place, and from one seed to the next. */
static uint64_t pattern(uint64_t i, uint64_t seed)
{
	return (i + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ seed << 32;
}

static void do_memory(const char *what, uint64_t off, uint64_t a, uint64_t b)
{
	uint64_t i, last = off / 8 + a / 8;

	if (off % 8 || off >= size || (strlen(what) > 3 && a > size - off)) {
		puts("err ERANGE");
		return;
	}
	if (sigsetjmp(bus, 1)) {
		puts("sigbus");
		return;
	}
	if (!strcmp(what, "get")) {
		printf("ok %" PRIu64 "\n", words[off / 8]);
		return;
	}
	for (i = 0; !strcmp(what, "add") && i < a; i++)
		__atomic_fetch_add(&words[off / 8], 1, __ATOMIC_RELAXED);
	if (!strcmp(what, "put"))
		words[off / 8] = a;
	for (i = off / 8; !strcmp(what, "fill") && i < last; i++)
		words[i] = pattern(i, b);
	for (i = off / 8; !strcmp(what, "check") && i < last; i++)
		if (words[i] != pattern(i, b)) {
			printf("wrong %" PRIu64 "\n", 8 * i);
			return;
		}
	puts("ok");
}

/* 1: it was rung; 0: not in time; or an error. */
static int wait_for(uint32_t vector, int ms)
{
	struct pollfd p = { .fd = vmp_eventfd(portal, vector), .events = POLLIN };
	uint64_t n;

	if (p.fd < 0)
		return p.fd;
	if (poll(&p, 1, ms) != 1)
		return 0;
	return read(p.fd, &n, sizeof(n)) == sizeof(n) ? 1 : -errno;
}

static void do_wait(uint32_t vector, int ms)
{
	int r = wait_for(vector, ms);

	if (r)
		result(r);
	else
		puts("timeout");
}

static void do_find(uint64_t value)
{
	size_t i;

	for (i = 0; i < size; i += 4096)
		if (words[i / 8] == value) {
			printf("ok %zu\n", i);
			return;
		}
	puts("err ENOENT");
}

static void do_ring(uint32_t peer, uint32_t vector, uint64_t n)
{
	int r = 0;

	do {
		r = vmp_ring(portal, peer, vector);
	} while (!r && n-- > 1);
	result(r);
}

static void do_echo(uint32_t vector, uint32_t peer, uint32_t to, uint64_t n)
{
	int r = 1;

	while (n-- && r == 1) {
		r = wait_for(vector, 60000);
		if (r == 1 && vmp_ring(portal, peer, to))
			r = -EIO;
	}
	if (r)
		result(r);
	else
		puts("timeout");
}

static void do_packets(uint32_t vector)
{
	struct vmp_channel_opts o = { .size = sizeof(o), .vector = vector,
				      .flags = VMP_CH_PACKETS };

	vmp_channel_close(channel);
	channel = NULL;
	result(vmp_channel_open(&channel, portal, &o));
}

static void do_send(size_t len)
{
	static char zeroes[65536];

	result(vmp_send(channel, zeroes, len < sizeof(zeroes) ? len : sizeof(zeroes), 0, 3000));
}

static void do_recv(int ms)
{
	static char buf[65536];
	ssize_t n = vmp_recv(channel, buf, sizeof(buf), ms);

	if (n < 0)
		result((int)n);
	else
		printf("ok %zd\n", n);
}

static void do_join(void)
{
	uint64_t token;
	int r = vmp_join(portal, &token);

	if (r)
		result(r);
	else
		printf("ok %" PRIu64 "\n", token);
}

static void do_state(uint64_t token)
{
	int r = vmp_token_state(portal, token);

	if (r < 0)
		result(r);
	else
		printf("ok %d\n", r);
}

static void do_name(const char *name, uint64_t bytes)
{
	size_t n;
	char *data;
	int r = vmp_named_open(&object, portal, name, VMP_CREATE, bytes, 0600);

	if (r) {
		result(r);
		return;
	}
	data = vmp_named_data(object, &n);
	printf("ok %td %zu\n", data - (char *)(uintptr_t)words, n);
}

static void do_leave(void)
{
	result(vmp_named_close(object));
	object = NULL;
}

static void do_lock(const char *what, int ms)
{
	void *lock = object ? vmp_named_data(object, NULL) : NULL;

	if (!strcmp(what, "lock"))
		result(vmp_lock(portal, lock, ms));
	else if (!strcmp(what, "unlock"))
		result(vmp_unlock(portal, lock));
	else
		result(vmp_lock_repaired(portal, lock));
}

static void do_watch(int ms)
{
	struct pollfd p = { .fd = vmp_watch_fd(portal), .events = POLLIN };

	if (p.fd < 0)
		result(p.fd);
	else if (poll(&p, 1, ms) == 1)
		result(vmp_watch_clear(portal));
	else
		puts("timeout");
}

static void do_hub(const char *name, uint32_t flags)
{
	struct vmp_hub_opts o = { .size = sizeof(o), .flags = flags };
	int r = vmp_hub_open(&hub, portal, name, &o);

	if (!r)
		r = vmp_hub_fd(hub);
	result(r);
}

static void do_from(int ms)
{
	static char buf[65536];
	struct vmp_from from;
	ssize_t n = vmp_hub_recv(hub, buf, sizeof(buf), &from, ms);

	if (n < 0)
		result((int)n);
	else
		printf("ok %u %" PRIu64 "\n", from.event, from.token);
}

static void do_channel(const char *name)
{
	vmp_channel_close(channel);
	channel = NULL;
	result(vmp_channel_named(&channel, portal, name, NULL, 60000));
}

static void do_end(void)
{
	int r = vmp_channel_peer_state(channel);

	if (r < 0)
		result(r);
	else
		printf("ok %d\n", r);
}

/* Rows of the host's, who is peer 0, that have changed so far. */
static uint64_t host_changes(void)
{
	struct vmp_peer peer;

	return vmp_get_peer(portal, 0, &peer, sizeof(peer)) ? 0 : peer.changes;
}

/*
 * The one that hears first must not take it from the other. The watch has a clock, too:
 * what that says is no change.
 */
static void do_hears(int ms)
{
	struct pollfd p = { .fd = vmp_watch_fd(portal), .events = POLLIN };
	struct pollfd h = { .fd = vmp_hub_fd(hub), .events = POLLIN };
	uint64_t before = host_changes();
	char c;
	int r = 0;

	while (vmp_hub_recv(hub, &c, 1, NULL, 0) >= 0)
		;
	puts("ready");
	fflush(stdout);
	do {
		if (poll(&p, 1, ms) != 1) {
			puts("timeout");
			return;
		}
		r = vmp_watch_clear(portal);
	} while (!r && host_changes() == before);
	if (r || poll(&h, 1, 300) == 1)
		result(r);
	else
		puts("deaf");
}

/* What a process of bad will does to what it shares with its server. */
static void do_blocking(uint32_t vector, uint64_t n)
{
	int fd = vmp_eventfd(portal, vector);
	uint64_t old;

	/* Empty before it is filled: what it had is of no interest. */
	if (n && read(fd, &old, sizeof(old)) < 0)
		errno = 0;
	if (fd < 0 || (n && write(fd, &n, sizeof(n)) != sizeof(n)) || fcntl(fd, F_SETFL, 0))
		result(fd < 0 ? fd : -errno);
	else
		puts("ok");
}

/* The server sees an end; the memory is still mapped. */
static void do_hangup(void)
{
	DIR *d = opendir("/proc/self/fd");
	struct dirent *e;
	char to[64];
	int n = 0;

	while (d && (e = readdir(d))) {
		ssize_t len = readlinkat(dirfd(d), e->d_name, to, sizeof(to) - 1);

		to[len < 0 ? 0 : len] = 0;
		if (!strncmp(to, "socket:", 7) && !shutdown(atoi(e->d_name), SHUT_RDWR))
			n += !close(atoi(e->d_name));
	}
	if (d)
		closedir(d);
	result(n ? 0 : -ENOENT);
}

static void do_close(void)
{
	vmp_hub_close(hub);
	hub = NULL;
	if (object)
		vmp_named_close(object);
	object = NULL;
	vmp_channel_close(channel);
	vmp_close(portal);
	channel = NULL;
	portal = NULL;
	puts("ok");
}

/* Of managed portals. Whether it was such an order. */
static bool obey_managed(const char *what, const char *text, const uint64_t n[4], uint64_t bytes)
{
	if (!strcmp(what, "join"))
		do_join();
	else if (!strcmp(what, "state"))
		do_state(n[0]);
	else if (!strcmp(what, "name"))
		do_name(text, bytes);
	else if (!strcmp(what, "leave") && object)
		do_leave();
	else if (!strcmp(what, "lock") || !strcmp(what, "unlock") || !strcmp(what, "repaired"))
		do_lock(what, (int)n[0]);
	else if (!strcmp(what, "watch"))
		do_watch((int)n[0]);
	else if (!strcmp(what, "hub"))
		do_hub(text, (uint32_t)bytes);
	else if (!strcmp(what, "hears") && hub)
		do_hears((int)n[0]);
	else if (!strcmp(what, "from") && hub)
		do_from((int)n[0]);
	else if (!strcmp(what, "channel"))
		do_channel(text);
	else if (!strcmp(what, "end") && channel)
		do_end();
	else if (!strcmp(what, "fence"))
		result(vmp_fence(portal, (uint32_t)n[0]));
	else
		return false;
	return true;
}

static void obey(char *line)
{
	char what[32] = "", text[256] = "";
	uint64_t n[4] = { 0 }, bytes = 0;

	sscanf(line, "%31s %255s %" SCNu64, what, text, &bytes);
	sscanf(line, "%*s %" SCNi64 " %" SCNi64 " %" SCNi64 " %" SCNi64, &n[0], &n[1], &n[2],
	       &n[3]);
	if (!strcmp(what, "open"))
		do_open(text);
	else if (!portal)
		puts("err EBADF");
	else if (!strcmp(what, "info"))
		do_info();
	else if (!strcmp(what, "get") || !strcmp(what, "put") || !strcmp(what, "fill") ||
		 !strcmp(what, "check") || !strcmp(what, "add"))
		do_memory(what, n[0], n[1], n[2]);
	else if (!strcmp(what, "find"))
		do_find(n[0]);
	else if (!strcmp(what, "ring"))
		do_ring(n[0], n[1], n[2]);
	else if (!strcmp(what, "wait"))
		do_wait(n[0], (int)n[1]);
	else if (!strcmp(what, "echo"))
		do_echo(n[0], n[1], n[2], n[3]);
	else if (!strcmp(what, "close"))
		do_close();
	else if (!strcmp(what, "packets"))
		do_packets(n[0]);
	else if (!strcmp(what, "send") && channel)
		do_send(n[0]);
	else if (!strcmp(what, "recv") && channel)
		do_recv((int)n[0]);
	else if (!strcmp(what, "blocking"))
		do_blocking(n[0], n[1]);
	else if (!strcmp(what, "hangup"))
		do_hangup();
	else if (!obey_managed(what, text, n, bytes))
		puts("err EINVAL");
}

int main(void)
{
	struct sigaction sa = { .sa_handler = on_bus };
	static char line[1024];

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGBUS, &sa, NULL);
	puts("ready");
	while (fgets(line, sizeof(line), stdin) && strcmp(line, "exit\n"))
		obey(line);
	return 0;
}
