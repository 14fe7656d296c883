// SPDX-License-Identifier: MIT
/* portalctl top: a managed portal, live in a terminal. */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "changes.h"
#include "frame.h"

#define TICK_MS		1000	/* ages and hearts go on when nothing changes */
#define EVENTS		64	/* that are kept; as many are shown as there is room for */

struct args {
	struct one_portal portal;	/* first: parse_one_portal() */
	bool once;
};

/**
 * struct top - the screen
 * @k: the tables as they are shown
 * @event, @events: what happened: a ring, and how many ever
 * @rows, @cols: of the terminal; 0: no end
 * @used: lines that are printed
 */
struct top {
	struct look k;
	const char *uri;
	char event[EVENTS][264];
	unsigned int events;
	unsigned int rows, cols, used;
};

static const struct argp_option options[] = {
	{ "once", '1', NULL, 0, "Print it once, for a script or a file", 0 },
	{ "json", 'j', NULL, 0, "Print it once, as JSON", 0 },
	{ 0 }
};

static error_t parse(int key, char *arg, struct argp_state *st)
{
	struct args *a = st->input;

	if (key == 'j')
		a->once = true;
	if (key != '1')
		return parse_one_portal(key, arg, st);
	a->once = true;
	return 0;
}

/* ---- Drawing ---------------------------------------------------------------------- */

/* One line, cut at the right edge, never beyond the last one. */
__attribute__((format(printf, 2, 3)))
static void line(struct top *t, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	if (t->rows && t->used + 1 >= t->rows)
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	/* In bytes: names of more than one each may be cut too early, not too late. */
	if (t->cols && n > (int)t->cols) {
		n = (int)t->cols;
		while (n && ((unsigned char)text[n] & 0xc0) == 0x80)
			n--;
		text[n] = 0;
	}
	t->used++;
	fputs(text, stdout);
	/* What an earlier picture had there. */
	fputs(t->rows ? "\033[K\n" : "\n", stdout);
}

static void draw_head(struct top *t, unsigned int peers, unsigned int sessions, unsigned int objects)
{
	const struct vmp_layout *l = &t->k.l;
	char now[16], size[24], owner[40] = "";
	time_t s = time(NULL);
	struct tm tm;

	localtime_r(&s, &tm);
	strftime(now, sizeof(now), "%H:%M:%S", &tm);
	if (l->lock_owner)
		snprintf(owner, sizeof(owner), ", locked by 0x%llx", (unsigned long long)l->lock_owner);
	line(t, "%s  %s%s%s  %s%s", now, t->uri, *l->name ? "  " : "", l->name,
	     human_size(size, sizeof(size), l->size), l->flags & VMP_LAYOUT_DAMAGED ? "  DAMAGED" : "");
	line(t, "%u peers, %u sessions, %u objects; directory: change %llu%s", peers, sessions, objects,
	     (unsigned long long)l->generation / 2, owner);
}

/* How often an object, or (object 0) anything by a session, is open. */
static unsigned int count_uses(const struct top *t, uint64_t object, uint64_t token)
{
	unsigned int n = 0;
	struct vmp_use u;

	for (uint32_t i = 0; i < t->k.l.uses; i++)
		n += !vmp_get_use(t->k.p, i, &u, sizeof(u)) && u.object &&
		     (object ? u.object == object : u.token == token);
	return n;
}

static uint32_t all_peers(const struct top *t)
{
	return t->k.l.peers;
}

static bool peer_shown(const struct top *t, uint32_t i)
{
	return t->k.peers[i].state != VMP_STATE_NONE && t->k.peers[i].state != VMP_STATE_DEAD;
}

static void draw_peer(struct top *t, uint32_t i)
{
	const struct vmp_peer *p = &t->k.peers[i];
	char heart[32] = "none", why[24] = "";
	double still = (double)(now_ns() - t->k.since[p->slot]) / 1e9;

	if (!t->rows && p->heartbeat_ms)
		snprintf(heart, sizeof(heart), "%llu beats", (unsigned long long)p->heartbeat);
	else if (p->heartbeat_ms && still * 1000 < 2.0 * p->heartbeat_ms)
		snprintf(heart, sizeof(heart), "beats");
	else if (p->heartbeat_ms)
		snprintf(heart, sizeof(heart), "still %.0f s", still);
	if (p->state == VMP_STATE_SUSPECT && p->reason)
		snprintf(why, sizeof(why), "(%s)", reason_name(p->reason));
	line(t, "%4u  %-7s %-9s  %-5s  %5d  %12s  %s", p->slot, state_name(p->state), why,
	     p->kind == 2 ? "host" : "guest", p->address == VMP_PEER_NONE ? -1 : (int)p->address, heart, p->name);
}

static uint32_t all_sessions(const struct top *t)
{
	return t->k.l.area[1].count;
}

static bool session_shown(const struct top *t, uint32_t i)
{
	return t->k.sessions[i].state == VMP_STATE_ALIVE;
}

static void draw_session(struct top *t, uint32_t i)
{
	const struct vmp_session *s = &t->k.sessions[i];

	line(t, "%4u  0x%-14llx  %7u  %5u  %4u  %s", s->peer, (unsigned long long)s->token, s->pid, s->uid,
	     count_uses(t, 0, s->token), s->name);
}

static uint32_t all_objects(const struct top *t)
{
	return t->k.l.objects;
}

static bool object_shown(const struct top *t, uint32_t i)
{
	return object_lives(&t->k.objects[i]);
}

static void draw_object(struct top *t, uint32_t i)
{
	const struct vmp_object *o = &t->k.objects[i];
	char size[24];

	line(t, "%-8s  %-10s  %10s  %4u  %s", o->kind == 1 ? "raw" : o->kind == 2 ? "channel" : "?",
	     o->state == VMP_OBJECT_NAMED ? "named" : o->state == VMP_OBJECT_MAKING ? "being made" : "unlinked",
	     human_size(size, sizeof(size), o->bytes), count_uses(t, o->id, 0), o->name);
}

/**
 * struct section - one of the screen's tables
 * @head: above it
 * @indent: of "and so many more"
 * @all, @shown, @draw: its rows, those that are shown, and one of them
 */
static const struct section {
	const char *head;
	int indent;
	uint32_t (*all)(const struct top *t);
	bool (*shown)(const struct top *t, uint32_t i);
	void (*draw)(struct top *t, uint32_t i);
} sections[] = {
	{ "PEER  STATE              KIND      ID         HEART  NAME", 6, all_peers, peer_shown, draw_peer },
	{ "PEER  SESSION               PID    UID  OPEN  COMMAND", 6, all_sessions, session_shown, draw_session },
	{ "KIND      STATE             SIZE  OPEN  NAME", 10, all_objects, object_shown, draw_object },
};

#define SECTIONS (sizeof(sections) / sizeof(*sections))

static unsigned int count_shown(const struct top *t, const struct section *s)
{
	unsigned int n = 0;

	for (uint32_t i = 0; i < s->all(t); i++)
		n += s->shown(t, i);
	return n;
}

/* Tables are cut so that the newest events have a place, a third of the screen at least. */
static unsigned int room(const struct top *t, unsigned int want)
{
	unsigned int end = t->rows - t->rows / 3;

	if (!t->rows || t->used + want < end)
		return want;
	return t->used + 1 < end ? end - t->used - 1 : 0;
}

static void draw_section(struct top *t, const struct section *s, unsigned int n)
{
	unsigned int most = room(t, n), drawn = 0;

	line(t, "%s", s->head);
	for (uint32_t i = 0; i < s->all(t) && drawn < most; i++)
		if (s->shown(t, i)) {
			s->draw(t, i);
			drawn++;
		}
	if (drawn < n)
		line(t, "%*sand %u more", s->indent, "", n - drawn);
	line(t, "%s", "");
}

static void draw_events(struct top *t)
{
	unsigned int kept = t->events < EVENTS ? t->events : EVENTS;
	unsigned int left = t->rows > t->used + 1 ? t->rows - t->used - 1 : 0;

	if (!t->rows)
		return;
	for (unsigned int i = kept < left ? kept : left; i; i--)
		line(t, "%s", t->event[(t->events - i) % EVENTS]);
}

static void draw(struct top *t)
{
	unsigned int n[SECTIONS];

	for (size_t i = 0; i < SECTIONS; i++)
		n[i] = count_shown(t, &sections[i]);
	t->used = 0;
	if (t->rows)
		fputs("\033[H", stdout);
	draw_head(t, n[0], n[1], n[2]);
	line(t, "%s", "");
	for (size_t i = 0; i < SECTIONS; i++)
		draw_section(t, &sections[i], n[i]);
	draw_events(t);
	if (t->rows)
		fputs("\033[J", stdout);
	fflush(stdout);
}

/* ---- Going on --------------------------------------------------------------------------- */

static void remember(void *arg, const struct change *c)
{
	struct top *t = arg;
	time_t s = time(NULL);
	char now[16];
	struct tm tm;

	localtime_r(&s, &tm);
	strftime(now, sizeof(now), "%H:%M:%S", &tm);
	snprintf(t->event[t->events++ % EVENTS], sizeof(t->event[0]), "%s  %s", now, c->text);
}

static void measure(struct top *t)
{
	struct winsize w;

	t->rows = 24;
	t->cols = 80;
	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) && w.ws_row > 4 && w.ws_col > 20) {
		t->rows = w.ws_row;
		t->cols = w.ws_col;
	}
}

/* Until 'q', a signal, the end of the keyboard or of the portal. */
static int loop(struct top *t)
{
	struct pollfd f[2] = { { .fd = vmp_watch_fd(t->k.p), .events = POLLIN },
			       { .fd = STDIN_FILENO, .events = POLLIN } };
	char key;
	int err;

	if (f[0].fd < 0)
		return fail_vmp(f[0].fd);
	while (!interrupted()) {
		err = vmp_watch_clear(t->k.p);
		if (err)
			return fail_vmp(err);
		err = look_again(&t->k, remember, t);
		if (err)
			return err;
		measure(t);
		draw(t);
		if (poll(f, 2, TICK_MS) < 0 && errno != EINTR)
			return fail(EX_LOCAL, "poll: %s", strerror(errno));
		if (f[1].revents && (read(STDIN_FILENO, &key, 1) != 1 || key == 'q' || key == 'Q'))
			return EX_DONE;
	}
	return EX_DONE;
}

/* The terminal is as it was, however it ends (but for SIGKILL). */
static int live(struct top *t)
{
	struct termios was, raw;
	int code;

	if (!isatty(STDOUT_FILENO) || tcgetattr(STDIN_FILENO, &was))
		return fail(EX_MISUSE, "top needs a terminal; --once prints it once, \"portalctl watch\" what changes");
	raw = was;
	raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	raw.c_cc[VMIN] = 1;
	raw.c_cc[VTIME] = 0;
	catch_signals();
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
	/* A screen of its own, without a cursor. */
	fputs("\033[?1049h\033[?25l\033[2J", stdout);
	code = loop(t);
	fputs("\033[?25h\033[?1049l", stdout);
	fflush(stdout);
	tcsetattr(STDIN_FILENO, TCSANOW, &was);
	return code;
}

static void print_all(struct vmp *p, const char *uri, const struct vmp_layout *l)
{
	struct json_object *o = json_object_new_object();

	add_text(o, "uri", uri);
	add_text(o, "name", l->name);
	json_object_object_add(o, "directory", directory_json(l));
	json_object_object_add(o, "peers", peers_json(p, l));
	json_object_object_add(o, "sessions", sessions_json(p, l));
	json_object_object_add(o, "objects", objects_json(p, l));
	print_json(o);
	json_object_put(o);
}

static int run(int argc, char **argv)
{
	static const struct argp argp = {
		options, parse, "[URI]", "A managed portal, live: its machines and their hearts, their "
		"processes, the objects, and what happened. Ends with 'q' or ^C.\v" EXIT_CODES_DOC,
		NULL, NULL, NULL
	};
	struct args a = { .portal.uri = default_uri() };
	static struct top t;
	struct vmp *p;
	int code;

	parse_args(&argp, argc, argv, &a);
	t.uri = a.portal.uri;
	code = open_managed(&p, a.portal.uri, VMP_RDONLY | VMP_ZERO_ON_REVOKE, &t.k.l);
	if (code)
		return code;
	if (a.portal.json) {
		print_all(p, a.portal.uri, &t.k.l);
	} else {
		code = look_first(&t.k, p);
		if (!code && a.once)
			draw(&t);
		else if (!code)
			code = live(&t);
		look_free(&t.k);
	}
	vmp_close(p);
	die_of_signal();
	return code;
}

const struct command cmd_top = { "top", "a managed portal, live in a terminal", run };
