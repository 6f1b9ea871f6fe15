/* A wall clock that is minutes ahead for one pod's processes, by LD_PRELOAD: AHEAD_SECONDS. The other clocks are the machine's.
   libfaketime shares a semaphore between a process and its children, which those of another user may not open: the guard's are. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static time_t ahead(void) {
	const char *seconds = getenv("AHEAD_SECONDS");
	return seconds ? atol(seconds) : 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
	static int (*real)(clockid_t, struct timespec *);
	if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	int result = real(clock, now);
	if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead();
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
	(void)zone;
	struct timespec time;
	int result = clock_gettime(CLOCK_REALTIME, &time);
	if (!result) *now = (struct timeval){time.tv_sec, time.tv_nsec / 1000};
	return result;
}

time_t time(time_t *where) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (where) *where = now.tv_sec;
	return now.tv_sec;
}
