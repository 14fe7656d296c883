// SPDX-License-Identifier: MIT
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "manager.h"

#define SYSTEMD		"org.freedesktop.systemd1"
#define ANSWER_USEC	2000000

/* The job that systemd has for the unit of this process; its path in @m. 0 or less: none. */
static int find_job(sd_bus *bus, sd_bus_message **m, const char **job)
{
	sd_bus_message *unit = NULL;
	const char *path;
	uint32_t id = 0;
	int ret;

	ret = sd_bus_call_method(bus, SYSTEMD, "/org/freedesktop/systemd1", SYSTEMD ".Manager",
				 "GetUnitByPID", NULL, &unit, "u", (uint32_t)getpid());
	if (ret >= 0)
		ret = sd_bus_message_read(unit, "o", &path);
	if (ret >= 0)
		ret = sd_bus_get_property(bus, SYSTEMD, path, SYSTEMD ".Unit", "Job", NULL, m, "(uo)");
	if (ret >= 0)
		ret = sd_bus_message_read(*m, "(uo)", &id, job);
	sd_bus_message_unref(unit);
	return ret < 0 ? ret : id != 0;
}

bool manager_stops_us(void)
{
	sd_bus_message *m = NULL;
	const char *job = NULL;
	sd_bus *bus = NULL;
	char *type = NULL;
	bool stops;

	if (sd_bus_open_system(&bus) < 0)
		return false;
	sd_bus_set_method_call_timeout(bus, ANSWER_USEC);
	stops = find_job(bus, &m, &job) > 0 &&
		sd_bus_get_property_string(bus, SYSTEMD, job, SYSTEMD ".Job", "JobType", NULL,
					   &type) >= 0 && strcmp(type, "stop") == 0;
	free(type);
	sd_bus_message_unref(m);
	sd_bus_flush_close_unref(bus);
	return stops;
}
