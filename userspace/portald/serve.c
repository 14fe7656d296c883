// SPDX-License-Identifier: MIT
/* The life of the daemon: limits, portals, signals, service manager. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "listen.h"
#include "log.h"
#include "portal.h"
#include "manager.h"
#include "serve.h"
#include "store.h"

#define FDS_BASE 32	/* event loop, signals, stdio, files read in passing */

struct daemon {
	const struct serve_args *args;
	sd_event *event;
	struct portal *portals;
	bool ready;
	bool keep;		/* all of it for the next portald */
};

static const char *socket_dir(const struct daemon *d)
{
	return listen_dir(d->args->dir ? d->args->dir : d->args->config->socket_dir);
}

static bool wanted(const struct daemon *d, const struct portal_conf *c)
{
	return !d->args->only || strcmp(d->args->only, c->name) == 0;
}

/* All descriptors these portals may need must be allowed now, not refused later. */
static int raise_limit(const struct daemon *d, const struct config *config, struct err *e)
{
	const struct portal_conf *c;
	rlim_t need = FDS_BASE;
	struct rlimit rl;

	for (c = config->portals; c; c = c->next)
		if (wanted(d, c))
			need += conf_fds(c);
	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return err_set(e, "getrlimit: %s", strerror(errno));
	if (rl.rlim_cur < rl.rlim_max) {
		rl.rlim_cur = rl.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &rl) < 0)
			return err_set(e, "setrlimit: %s", strerror(errno));
	}
	if (rl.rlim_cur < need)
		return err_set(e, "%lu file descriptors may be needed and %lu are allowed: raise LimitNOFILE= (ulimit -n), or lower max_guests, host_peers or vectors",
			       (unsigned long)need, (unsigned long)rl.rlim_cur);
	return 0;
}

static void tell_manager(void *arg)
{
	struct daemon *d = arg;
	unsigned int n = 0, guests = 0, processes = 0;
	struct portal *p;

	for (p = d->portals; p; p = p->next) {
		n++;
		guests += p->guests;
		processes += p->processes;
	}
	if (d->ready)
		store_say("STATUS=%u portals, %u guests, %u processes", n, guests, processes);
}

static struct portal *find(const struct daemon *d, const char *name)
{
	struct portal *p;

	for (p = d->portals; p && strcmp(p->conf.name, name) != 0; p = p->next)
		;
	return p;
}

static int open_one(struct daemon *d, const struct portal_conf *c, struct err *e)
{
	struct portal *p, **pp;
	struct err inner;

	p = portal_open(c, socket_dir(d), d->event, &inner);
	if (!p)
		return err_set(e, "%s: %s", c->name, inner.text);
	p->changed = tell_manager;
	p->changed_arg = d;
	for (pp = &d->portals; *pp; pp = &(*pp)->next)
		;
	*pp = p;
	return 0;
}

static int open_all(struct daemon *d, struct err *e)
{
	const struct portal_conf *c;

	if (raise_limit(d, d->args->config, e) < 0 || listen_inherit(e) < 0 ||
	    listen_make_dir(socket_dir(d), e) < 0)
		return -1;
	for (c = d->args->config->portals; c; c = c->next) {
		if (!wanted(d, c) || open_one(d, c, e) == 0)
			continue;
		/* A new one that cannot be served is no reason to leave those who were waiting. */
		if (!store_had(NULL) || store_had(c->name))
			return -1;
		log_line(LOG_ERR, NULL, "%s; it is not served until a reload", e->text);
	}
	if (!d->portals)
		return err_set(e, "there is no portal%s%s to serve: add [NAME] to %s, or give --name",
			       d->args->only ? " " : "", d->args->only ? d->args->only : "",
			       d->args->file ? d->args->file : CONF_DEFAULT);
	if (listen_left_over())
		return err_set(e, "systemd passed a socket for '%s', which is no portal of this configuration: correct FileDescriptorName= or add [%s]",
			       listen_left_over(), listen_left_over());
	if (store_sweep(NULL))
		log_line(LOG_WARNING, NULL,
			 "the portald before left portals that are not of this configuration any more: they have ended");
	return 0;
}

/* SIGHUP: new sections begin to be served; nothing that is served is touched. */
static void reload(struct daemon *d)
{
	struct config fresh = { NULL, NULL };
	const struct portal_conf *c;
	struct portal *p;
	struct err e;

	if (!d->args->file) {
		log_line(LOG_NOTICE, NULL, "reload: there is no file, the options stand");
		return;
	}
	if (conf_load(&fresh, d->args->file, &e) < 0 || raise_limit(d, &fresh, &e) < 0) {
		log_line(LOG_ERR, NULL, "reload: nothing changed: %s", e.text);
		conf_free(&fresh);
		return;
	}
	for (c = fresh.portals; c; c = c->next) {
		p = find(d, c->name);
		if (!p && wanted(d, c) && open_one(d, c, &e) < 0)
			log_line(LOG_ERR, NULL, "reload: %s", e.text);
		else if (p && !conf_same(&p->conf, c))
			log_line(LOG_WARNING, c->name,
				 "reload: changed settings need a restart of portald, which makes a new region");
	}
	for (p = d->portals; p; p = p->next) {
		for (c = fresh.portals; c && strcmp(c->name, p->conf.name) != 0; c = c->next)
			;
		if (!c)
			log_line(LOG_WARNING, p->conf.name,
				 "reload: no longer in the file, served until portald ends");
	}
	conf_free(&fresh);
}

static int on_hup(sd_event_source *s, const struct signalfd_siginfo *si, void *arg)
{
	struct daemon *d = arg;

	store_say("RELOADING=1");
	reload(d);
	store_say("READY=1");
	tell_manager(d);
	return 0;
}

/*
 * SIGINT is an end for good, SIGUSR1 is for a successor, SIGTERM is what the service
 * manager makes of it. Where nobody keeps anything there is no successor.
 */
static int on_term(sd_event_source *s, const struct signalfd_siginfo *si, void *arg)
{
	struct daemon *d = arg;

	d->keep = store_on() && (si->ssi_signo == SIGUSR1 ||
				 (si->ssi_signo == SIGTERM && !manager_stops_us()));
	log_line(LOG_INFO, NULL, "ending%s: signal %u from pid %u", d->keep ? ", for another portald" : "",
		 si->ssi_signo, si->ssi_pid);
	return sd_event_exit(d->event, 0);
}

static int on_keeper(sd_event_source *s, int fd, uint32_t revents, void *arg)
{
	log_line(LOG_ERR, NULL,
		 "the keeper has ended: nothing is kept any more, and an end of this portald is one for good");
	sd_event_source_set_enabled(s, SD_EVENT_OFF);
	store_lost();
	return 0;
}

static int set_up_loop(struct daemon *d)
{
	sigset_t set;
	int ret;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGUSR1);
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
		return -errno;
	signal(SIGPIPE, SIG_IGN);	/* a log reader that ended */
	ret = sd_event_new(&d->event);
	if (ret >= 0)
		ret = sd_event_add_signal(d->event, NULL, SIGTERM, on_term, d);
	if (ret >= 0)
		ret = sd_event_add_signal(d->event, NULL, SIGINT, on_term, d);
	if (ret >= 0)
		ret = sd_event_add_signal(d->event, NULL, SIGUSR1, on_term, d);
	if (ret >= 0)
		ret = sd_event_add_signal(d->event, NULL, SIGHUP, on_hup, d);
	if (ret >= 0)
		ret = sd_event_set_watchdog(d->event, 1);
	if (ret >= 0 && store_keeper() >= 0)	/* its hanging-up only */
		ret = sd_event_add_io(d->event, NULL, store_keeper(), 0, on_keeper, d);
	return ret;
}

static int run(struct daemon *d)
{
	struct err e;
	int ret = set_up_loop(d);

	if (ret < 0) {
		log_line(LOG_ERR, NULL, "cannot make an event loop: %s", strerror(-ret));
		return 1;
	}
	if (open_all(d, &e) < 0) {
		d->keep = true;		/* what an earlier portald left: for another try */
		log_line(LOG_ERR, NULL, "%s", e.text);
		store_waits();
		return 1;
	}
	d->ready = true;
	store_say("READY=1");
	tell_manager(d);
	ret = sd_event_loop(d->event);
	store_say("STOPPING=1");
	if (ret < 0) {
		d->keep = store_on();
		log_line(LOG_ERR, NULL, "event loop: %s", strerror(-ret));
	}
	return ret ? 1 : 0;
}

int serve(const struct serve_args *args)
{
	struct daemon d = { .args = args };
	struct portal *p;
	int ret = run(&d);

	while ((p = d.portals)) {
		d.portals = p->next;
		portal_close(p, d.keep);
	}
	sd_event_unref(d.event);
	return ret;
}
