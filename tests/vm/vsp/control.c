// SPDX-License-Identifier: MIT
/*
 * Commands on a socket of their own (vspctl): one packet is one command, words with
 * spaces between; the answer is one packet, "ok ..." or "error ...".
 *
 *	status				what is, as JSON
 *	service V echo|sink|deaf	who serves channel V's packets
 *	source V N MIN MAX SEED [comp]	send N packets of MIN..MAX bytes on channel V
 *	signal V [N]			ring the guest
 *	rescind [now], offer		take the device away, give it again
 *	rescind-sub V, offer-sub V	the same with a subchannel alone
 *	mute, speak			answer nothing on the bus, go on
 *	lie NAME[@MESSAGE]		the next handshake will not be right
 *	lie V NAME			something is wrong in channel V, now
 *	reset				of the machine, as its button does it
 *	truth				take back what was not yet told
 */
#include "vsp.h"
#include "qemu/main-loop.h"
#include "qapi/qapi-commands-machine.h"

#include <sys/socket.h>

#define WORDS_MAX	10
#define ANSWER_MAX	32768

struct command {
	struct vsp *p;
	char **w;
	unsigned int n;
	GString *out;
	char err[VSP_ERR];
};

static int number(struct command *k, unsigned int i, uint64_t max, uint64_t *v)
{
	char *end = NULL;

	*v = i < k->n ? g_ascii_strtoull(k->w[i], &end, 0) : 0;
	if (!end || *end || end == k->w[i] || *v > max)
		return vsp_fail(k->err, -EINVAL, "word %u: a number up to %" PRIu64 " is wanted",
				i + 1, max);
	return 0;
}

static struct channel *channel(struct command *k)
{
	uint64_t v;

	return number(k, 1, k->p->nch - 1, &v) ? NULL : &k->p->ch[v];
}

static void one_channel(GString *o, const struct channel *c)
{
	static const char *const services[] = { "echo", "sink", "deaf" };
	const vmbus_ring_buffer *s = c->rings.send, *r = c->rings.recv;

	g_string_append_printf(o, "{\"open\":%s,\"broken\":%s,\"relid\":%u,\"service\":\"%s\",\"unsent\":%" PRIu64,
			       c->open ? "true" : "false", c->broken ? "true" : "false",
			       c->relid, services[c->service], c->source.left);
#define N(name)	g_string_append_printf(o, ",\"" #name "\":%" PRIu64, c->n.name)
	N(packets); N(bytes); N(bad); N(gpa_direct); N(control); N(foreign);
	N(completions_asked); N(completions); N(sent); N(echoed);
	N(bells_in); N(bells_out); N(notifies);
#undef N
	if (c->open)
		g_string_append_printf(o, ",\"guest_sends\":{\"write\":%u,\"read\":%u,\"size\":%u},\"guest_receives\":{\"write\":%u,\"read\":%u,\"size\":%u,\"pending\":%u}",
				       s->write_index, s->read_index, c->rings.send_len,
				       r->write_index, r->read_index, c->rings.recv_len,
				       r->pending_send_sz);
	g_string_append_c(o, '}');
}

static int do_status(struct command *k)
{
	struct vsp *p = k->p;
	g_autofree char *why = g_strescape(p->last_error, NULL);
	uint32_t i;

	g_string_append_printf(k->out, "{\"state\":\"%s\",\"offered\":%s,\"muted\":%s,\"sessions\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"clients\":%u,\"features\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"gpadls\":%u,\"runs\":%u,\"last_error\":\"%s\",\"lie\":\"%s\",\"channels\":[",
			       session_state(p), p->offered ? "true" : "false",
			       p->muted ? "true" : "false", p->sessions,
			       p->refused, clients_count(p), p->features,
			       p->region.pages * PORTAL_VMBUS_PAGE,
			       p->region.gpadls ? p->region.gpadls->len : 0,
			       p->region.runs, why, p->lie ?: "");
	for (i = 0; i < p->nch; i++) {
		if (i)
			g_string_append_c(k->out, ',');
		one_channel(k->out, &p->ch[i]);
	}
	g_string_append(k->out, "]}");
	return 0;
}

static int do_service(struct command *k)
{
	static const char *const names[] = { [VSP_ECHO] = "echo", [VSP_SINK] = "sink",
					     [VSP_DEAF] = "deaf" };
	struct channel *c = channel(k);
	unsigned int i;

	if (!c)
		return -EINVAL;
	for (i = 0; k->n == 3 && i < ARRAY_SIZE(names); i++) {
		if (strcmp(k->w[2], names[i]))
			continue;
		c->service = i;
		/* A sink counts from its beginning. */
		c->n.packets = c->n.bytes = c->n.bad = 0;
		if (c->open)
			vmbus_channel_notify_host(c->vc);
		return 0;
	}
	return vsp_fail(k->err, -EINVAL, "service V echo|sink|deaf");
}

static int do_source(struct command *k)
{
	struct channel *c = channel(k);
	uint64_t n, min, max, seed;

	if (!c)
		return -EINVAL;
	if (number(k, 2, UINT32_MAX, &n) || number(k, 3, 65536, &min) ||
	    number(k, 4, 65536, &max) || number(k, 5, UINT32_MAX, &seed))
		return -EINVAL;
	if (min < 8 || min > max)
		return vsp_fail(k->err, -EINVAL, "8 <= MIN <= MAX is wanted");
	if (!c->open || k->p->state != VSP_LIVE)
		return vsp_fail(k->err, -ENOTCONN, "channel %u is not in use", c->index);
	if (max + 32 > c->rings.recv_len)
		return vsp_fail(k->err, -EMSGSIZE, "MAX is more than the ring of %u bytes holds",
				c->rings.recv_len);
	c->source = (struct source){ .left = n, .min = min, .max = max, .seed = seed,
				     .complete = k->n > 6 };
	vmbus_channel_notify_host(c->vc);
	return 0;
}

static int do_signal(struct command *k)
{
	struct channel *c = channel(k);
	uint64_t n = 1;

	if (!c || (k->n > 2 && number(k, 2, 100000, &n)))
		return -EINVAL;
	while (n--)
		guest_ring(k->p, c->index);
	return 0;
}

static int do_rescind(struct command *k)
{
	return offer_rescind(k->p, k->n > 1 && !strcmp(k->w[1], "now"), k->err);
}

static int do_offer(struct command *k)
{
	return offer_again(k->p, k->err);
}

static int do_rescind_sub(struct command *k)
{
	struct channel *c = channel(k);

	return c && c->index ? offer_rescind_one(k->p, c->index, k->err) : -EINVAL;
}

static int do_offer_sub(struct command *k)
{
	struct channel *c = channel(k);

	return c && c->index ? offer_one(k->p, c->index, k->err) : -EINVAL;
}

static int do_mute(struct command *k)
{
	return mute_begin(k->p, k->err);
}

static int do_speak(struct command *k)
{
	return mute_end(k->p, k->err);
}

static int do_lie(struct command *k)
{
	struct channel *c;

	if (k->n == 3) {
		c = channel(k);
		return c ? lie_now(c, k->w[2], k->err) : -EINVAL;
	}
	if (k->n != 2 || !lie_known(k->w[1]))
		return vsp_fail(k->err, -EINVAL, "no such lie");
	g_free(k->p->lie);
	k->p->lie = g_strdup(k->w[1]);
	return 0;
}

static int do_reset(struct command *k)
{
	(void)k;
	qmp_system_reset(NULL);
	return 0;
}

static int do_truth(struct command *k)
{
	g_free(k->p->lie);
	k->p->lie = NULL;
	return 0;
}

static const struct {
	const char *name;
	int (*run)(struct command *k);
} commands[] = {
	{ "status", do_status }, { "service", do_service }, { "source", do_source },
	{ "signal", do_signal }, { "rescind", do_rescind }, { "offer", do_offer },
	{ "rescind-sub", do_rescind_sub }, { "offer-sub", do_offer_sub },
	{ "mute", do_mute }, { "speak", do_speak }, { "lie", do_lie }, { "truth", do_truth },
	{ "reset", do_reset },
};

static void execute(struct vsp *p, const char *text, GString *out)
{
	g_auto(GStrv) words = g_strsplit(text, " ", WORDS_MAX);
	struct command k = { .p = p, .w = words, .n = g_strv_length(words), .out = out };
	int r = vsp_fail(k.err, -EINVAL, "no such command");
	size_t i;

	g_string_assign(out, "ok ");
	for (i = 0; k.n && i < ARRAY_SIZE(commands); i++)
		if (!strcmp(words[0], commands[i].name))
			r = commands[i].run(&k);
	if (r < 0)
		g_string_printf(out, "error %s", k.err);
}

/* A connection lasts until its other end closes it. */
struct connection {
	struct vsp *p;
	int sock;
};

static void connection_read(void *opaque)
{
	struct connection *c = opaque;
	char text[1024];
	GString *out;
	ssize_t n = recv(c->sock, text, sizeof(text) - 1, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		qemu_set_fd_handler(c->sock, NULL, NULL, NULL);
		close(c->sock);
		g_free(c);
		return;
	}
	text[n] = 0;
	out = g_string_sized_new(256);
	execute(c->p, g_strstrip(text), out);
	if (send(c->sock, out->str, MIN(out->len, ANSWER_MAX), MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		vsp_log(c->p, "control: nobody reads the answer: %s", strerror(errno));
	g_string_free(out, true);
}

static void control_accept(void *opaque)
{
	struct vsp *p = opaque;
	struct connection *c;
	int s = accept4(p->control_listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (s < 0)
		return;
	c = g_new0(struct connection, 1);
	c->p = p;
	c->sock = s;
	qemu_set_fd_handler(s, connection_read, NULL, c);
}

int control_listen(struct vsp *p, char *err)
{
	if (!p->control)
		return 0;
	p->control_listener = unix_listen(p->control, err);
	if (p->control_listener < 0)
		return p->control_listener;
	qemu_set_fd_handler(p->control_listener, control_accept, NULL, p);
	return 0;
}

void control_close(struct vsp *p)
{
	if (p->control_listener < 0)
		return;
	qemu_set_fd_handler(p->control_listener, NULL, NULL, NULL);
	close(p->control_listener);
	unlink(p->control);
}
