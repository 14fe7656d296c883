// SPDX-License-Identifier: MIT
/*
 * What to give QEMU or libvirt. A running portald knows best; one that is not yet
 * running is described by its configuration. What has to be pasted goes to stdout
 * alone, so that $(portald qemu-args NAME) works; advice goes to stderr.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "listen.h"
#include "query.h"

static const struct portal_conf *find(const struct config *c, const char *name)
{
	const struct portal_conf *p;

	for (p = c->portals; p && strcmp(p->name, name) != 0; p = p->next)
		;
	return p;
}

/* Path and vectors from the daemon, else from @c; 0, or -1 and @e. */
static int look_up(const struct config *c, const char *dir, const char *name, char *path,
		   size_t len, int *vectors, struct err *e)
{
	const struct portal_conf *p = find(c, name);
	struct json_object *o, *v;
	int err;

	o = query_status(dir, name, &err, e);
	if (o) {
		if (json_object_object_get_ex(o, "qemu_socket", &v))
			snprintf(path, len, "%s", json_object_get_string(v));
		if (json_object_object_get_ex(o, "vectors", &v))
			*vectors = json_object_get_int(v);
		json_object_put(o);
		return 0;
	}
	if (!p)
		return -1;
	*vectors = (int)p->vectors;
	return listen_path(path, len, query_dir(dir, name), name, "ivshmem", e);
}

/* QEMU's option parser: a comma in a value is written twice. */
static void print_qemu_value(const char *s)
{
	for (; *s; s++)
		printf(*s == ',' ? ",," : "%c", *s);
}

static bool shell_safe(const char *s)
{
	return s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
			   "/._-+,:@%")] == '\0';
}

static int print_qemu(const char *name, const char *path, int vectors, struct err *e)
{
	if (!shell_safe(path))
		return err_set(e, "%s: the path has characters that a shell or QEMU would take apart: choose another --socket-dir",
			       path);
	printf("-chardev socket,path=");
	print_qemu_value(path);
	printf(",id=vmportal-%s -device ivshmem-doorbell,chardev=vmportal-%s,vectors=%d\n",
	       name, name, vectors);
	fprintf(stderr,
		"# without KVM add: -accel tcg,thread=multi -smp 1,maxcpus=2 (or more), or atomics between guests do not work\n");
	return 0;
}

static void print_xml_value(const char *s)
{
	for (; *s; s++)
		switch (*s) {
		case '&':
			printf("&amp;");
			break;
		case '<':
			printf("&lt;");
			break;
		case '\'':
			printf("&apos;");
			break;
		default:
			putchar(*s);
		}
}

static void print_libvirt(const char *name, const char *path, int vectors)
{
	printf("<shmem name='vmportal-%s'>\n"
	       "  <model type='ivshmem-doorbell'/>\n"
	       "  <server path='", name);
	print_xml_value(path);
	printf("'/>\n"
	       "  <msi vectors='%d' ioeventfd='on'/>\n"
	       "</shmem>\n", vectors);
	fprintf(stderr,
		"# goes into <devices>: virsh edit DOMAIN\n"
		"# QEMU's user must be in the socket's group: adduser libvirt-qemu vmportal (Debian), usermod -aG vmportal qemu (Fedora)\n"
		"# AppArmor: libvirt allows the path by itself; if it does not, add \"%s\" rw, to /etc/apparmor.d/local/abstractions/libvirt-qemu\n"
		"# SELinux: semanage fcontext -a -t svirt_image_t '%s' && restorecon '%s'\n",
		path, path, path);
}

int cmd_paste(enum paste form, const struct config *c, const char *dir, const char *name)
{
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)] = "";
	struct err e;
	int vectors = 0;
	int ret;

	ret = look_up(c, dir ? dir : c->socket_dir, name, path, sizeof(path), &vectors, &e);
	if (ret == 0 && form == PASTE_QEMU)
		ret = print_qemu(name, path, vectors, &e);
	else if (ret == 0)
		print_libvirt(name, path, vectors);
	if (ret < 0)
		fprintf(stderr, "portald: %s\n", e.text);
	return ret < 0 || fflush(stdout) != 0 ? 1 : 0;
}
