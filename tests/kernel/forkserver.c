/* Runs a program's main() again and again without loading it again: preloaded, it forks one process for each request.
 *
 * In a User-Mode Linux guest, executing a program takes ten times as long as forking one that has been loaded.
 * A request is, on REQUESTS, the number of bytes (native int) and the words, each ended by a zero byte; the answer, on
 * ANSWERS, is the status that waitpid gives (native int).  What the program reads and writes are the files at INPUT,
 * OUTPUT and ERROR.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REQUESTS = 3, ANSWERS = 4, INPUT = 5, OUTPUT = 6, ERROR = 7, MOST_BYTES = 1 << 16, MOST_WORDS = 1 << 10 };

typedef int Main(int, char **, char **);
static Main *program_main;

static int read_all(void *to, size_t length)
{
	for (size_t done = 0; done < length;) {
		ssize_t count = read(REQUESTS, (char *)to + done, length - done);
		if (count <= 0)
			return 0;
		done += count;
	}
	return 1;
}

static int run(char *text, int length)
{
	char *words[MOST_WORDS + 1];
	int count = 0;
	for (char *word = text; word < text + length && count < MOST_WORDS; word += strlen(word) + 1)
		words[count++] = word;
	words[count] = NULL;
	for (int file = INPUT; file <= ERROR; file++) {
		dup2(file, file - INPUT);
		close(file);
	}
	close(REQUESTS);
	close(ANSWERS);
	return program_main(count, words, environ);
}

static int serve(int argc, char **argv, char **envp)
{
	static char text[MOST_BYTES];
	int length, status;
	unsetenv("LD_PRELOAD");
	while (read_all(&length, sizeof length) && length > 0 && length <= MOST_BYTES && read_all(text, length)) {
		pid_t child = fork();
		if (child == 0)
			exit(run(text, length));
		if (child < 0 || waitpid(child, &status, 0) != child || write(ANSWERS, &status, sizeof status) < 0)
			return 1;
	}
	return 0;
}

int __libc_start_main(Main *main, int argc, char **argv, void (*init)(void), void (*fini)(void), void (*end)(void),
		      void *stack)
{
	int (*start)(Main *, int, char **, void (*)(void), void (*)(void), void (*)(void), void *);
	start = (void *)dlsym(RTLD_NEXT, "__libc_start_main");
	program_main = main;
	return start(serve, argc, argv, init, fini, end, stack);
}
