/* Serves requests by TensorFlow's C API, as servers do: one SavedModel, one session, any number of threads.

   serve float32|uint8 HEIGHT WIDTH CHANNELS THREADS EVERY REPLACE WARM-UP
         IMAGES REQUESTS ANSWERS SECONDS (FOLDER INPUT:0 OUTPUT:0)...

   Several folders are versions of a model, which take turns as in TensorFlow Serving: after every REPLACE requests, the next
   version is loaded while requests run, and computes the first WARM-UP of them; new requests then go to it, and the old version
   is unloaded when its last request is done. If REPLACE is 0, only the first is served.

   Four files of raw values in row-major order, of which the last two are there beforehand, filled with "not a number":
     IMAGES    all that may be asked for
     REQUESTS  three int64 each: the first image, how many, and the row of its answer
     ANSWERS   a row of float32 for every image of every request
     SECONDS   a float64 for every request; one that fails stays as it was

   Before the first request, after every EVERY and after the last it prints how many are done, the seconds since the first,
   the KiB that are resident and those that are in use (what malloc has given out and not got back), and how often a version
   was replaced. The messages of the first failures go to standard error. Needs Linux and glibc 2.33. */
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tensorflow/c/c_api.h"

enum { MESSAGES = 10 };

struct request {
  int64_t first, count, row;
};

struct version {
  TF_Graph *graph;
  TF_Session *session;
  TF_Output input, output;
  int users; /* Its requests, and one while it is served. */
};

static struct version *served; /* What new requests go to. */
static pthread_mutex_t versions = PTHREAD_MUTEX_INITIALIZER; /* Of `served`, and the users of every version. */
static sem_t due;
static atomic_size_t replaced;
static int64_t sides[3];
static size_t image_bytes, requests_count, every, replace_every, warm_up;
static const char *images;
static const struct request *requests;
static int answers_file, seconds_file;
static double begun;
static atomic_size_t next_request, done, failures;
static pthread_barrier_t all_done;

static void fail(const char *what, const char *why) {
  fprintf(stderr, "serve: %s: %s\n", what, why);
  exit(1);
}

/* The tensor called "operation:index". */
static TF_Output named(TF_Graph *graph, const char *name) {
  char operation[256];
  int index = 0;
  if (sscanf(name, "%255[^:]:%d", operation, &index) < 1) fail(name, "not the name of a tensor");
  TF_Output found = {TF_GraphOperationByName(graph, operation), index};
  if (found.oper == NULL) fail(name, "no such tensor");
  return found;
}

static TF_Tensor *compute(struct version *by, struct request request, TF_Status *status) {
  int64_t shape[] = {request.count, sides[0], sides[1], sides[2]};
  TF_Tensor *batch = TF_AllocateTensor(TF_OperationOutputType(by->input), shape, 4, request.count * image_bytes), *found = NULL;
  memcpy(TF_TensorData(batch), images + request.first * image_bytes, request.count * image_bytes);
  TF_SessionRun(by->session, NULL, &by->input, &batch, 1, &by->output, &found, 1, NULL, 0, NULL, status);
  TF_DeleteTensor(batch);
  return found;
}

/* A version that is ready to be served, from its folder and the names of its tensors. */
static struct version *load(char **arguments) {
  const char *tags[] = {"serve"};
  struct version *version = calloc(1, sizeof *version);
  TF_Status *status = TF_NewStatus();
  TF_SessionOptions *options = TF_NewSessionOptions();
  version->graph = TF_NewGraph(), version->users = 1;
  version->session = TF_LoadSessionFromSavedModel(options, NULL, arguments[0], tags, 1, version->graph, NULL, status);
  if (TF_GetCode(status) != TF_OK) fail(arguments[0], TF_Message(status));
  version->input = named(version->graph, arguments[1]), version->output = named(version->graph, arguments[2]);
  for (size_t index = 0; index < warm_up && index < requests_count; index++) {
    TF_Tensor *found = compute(version, requests[index], status);
    if (TF_GetCode(status) != TF_OK) fail("warm-up", TF_Message(status));
    TF_DeleteTensor(found);
  }
  TF_DeleteSessionOptions(options);
  TF_DeleteStatus(status);
  return version;
}

static struct version *acquire(void) {
  pthread_mutex_lock(&versions);
  struct version *version = served;
  version->users++;
  pthread_mutex_unlock(&versions);
  return version;
}

/* The last user unloads it. */
static void release(struct version *version) {
  pthread_mutex_lock(&versions);
  int users = --version->users;
  pthread_mutex_unlock(&versions);
  if (users > 0) return;
  TF_Status *status = TF_NewStatus();
  TF_DeleteSession(version->session, status);
  TF_DeleteGraph(version->graph);
  TF_DeleteStatus(status);
  free(version);
  malloc_trim(0); /* TensorFlow Serving gives memory back to the system here, too. */
}

static void replace(char **arguments) {
  struct version *new = load(arguments), *old;
  pthread_mutex_lock(&versions);
  old = served, served = new;
  pthread_mutex_unlock(&versions);
  atomic_fetch_add(&replaced, 1);
  release(old);
}

static void *read_all(const char *path, size_t *bytes) {
  FILE *file = fopen(path, "rb");
  if (file == NULL || fseek(file, 0, SEEK_END) != 0) fail(path, "cannot be read");
  *bytes = ftell(file);
  rewind(file);
  void *content = malloc(*bytes);
  if (content == NULL || fread(content, 1, *bytes, file) != *bytes) fail(path, "cannot be read");
  fclose(file);
  return content;
}

static int open_to_write(const char *path) {
  int file = open(path, O_WRONLY);
  if (file < 0) fail(path, "cannot be written");
  return file;
}

static void write_at(int file, const void *values, size_t bytes, size_t place) {
  if (pwrite(file, values, bytes, place) != (ssize_t)bytes) fail("an answer", "cannot be written");
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + 1e-9 * time.tv_nsec;
}

static void tell(size_t requests_done) {
  long total, resident, page = sysconf(_SC_PAGESIZE) / 1024;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file == NULL || fscanf(file, "%ld %ld", &total, &resident) != 2) fail("/proc/self/statm", "cannot be read");
  fclose(file);
  struct mallinfo2 heap = mallinfo2();
  size_t in_use = (heap.uordblks + heap.hblkhd) / 1024;
  printf("%zu %.3f %ld %zu %zu\n", requests_done, now() - begun, resident * page, in_use, atomic_load(&replaced));
  fflush(stdout);
}

static void answer(size_t index, TF_Status *status) {
  struct request request = requests[index];
  double start = now();
  struct version *by = acquire();
  TF_Tensor *found = compute(by, request, status);
  double seconds = now() - start;
  release(by);
  if (TF_GetCode(status) == TF_OK && (TF_NumDims(found) != 2 || TF_Dim(found, 0) != request.count))
    TF_SetStatus(status, TF_INTERNAL, "not one answer for each image");
  if (TF_GetCode(status) == TF_OK) {
    size_t bytes = TF_TensorByteSize(found);
    write_at(answers_file, TF_TensorData(found), bytes, bytes / request.count * request.row);
    write_at(seconds_file, &seconds, sizeof seconds, index * sizeof seconds);
  } else if (atomic_fetch_add(&failures, 1) < MESSAGES) {
    fprintf(stderr, "serve: request %zu: %s\n", index, TF_Message(status));
  }
  if (found != NULL) TF_DeleteTensor(found);
}

static void *serve(void *unused) {
  TF_Status *status = TF_NewStatus();
  for (size_t index; (index = atomic_fetch_add(&next_request, 1)) < requests_count;) {
    answer(index, status);
    size_t finished = atomic_fetch_add(&done, 1) + 1;
    if (finished % every == 0 || finished == requests_count) tell(finished);
    if (finished == requests_count || (replace_every > 0 && finished % replace_every == 0)) sem_post(&due);
  }
  pthread_barrier_wait(&all_done); /* A thread that ends gives back what malloc has kept for it. */
  TF_DeleteStatus(status);
  return unused;
}

int main(int count, char **arguments) {
  if (count < 16 || (count - 13) % 3 != 0) fail("usage", "see the head of serve.c");
  char **folders = arguments + 13;
  int folders_count = (count - 13) / 3;
  image_bytes = strcmp(arguments[1], "float32") == 0 ? sizeof(float) : 1;
  for (int axis = 0; axis < 3; axis++) image_bytes *= sides[axis] = atoll(arguments[2 + axis]);
  every = atol(arguments[6]), replace_every = atol(arguments[7]), warm_up = atol(arguments[8]);
  size_t bytes;
  images = read_all(arguments[9], &bytes);
  requests = read_all(arguments[10], &bytes);
  requests_count = bytes / sizeof *requests;
  answers_file = open_to_write(arguments[11]), seconds_file = open_to_write(arguments[12]);

  int threads_count = atoi(arguments[5]);
  pthread_t *threads = malloc(threads_count * sizeof *threads);
  pthread_barrier_init(&all_done, NULL, threads_count);
  sem_init(&due, 0, 0);
  served = load(folders);
  begun = now();
  tell(0);
  for (int thread = 0; thread < threads_count; thread++)
    if (pthread_create(threads + thread, NULL, serve, NULL) != 0) fail("a thread", "cannot be started");
  for (int next = 1; sem_wait(&due) == 0 && atomic_load(&done) < requests_count; next++)
    replace(folders + 3 * (next % folders_count));
  for (int thread = 0; thread < threads_count; thread++) pthread_join(threads[thread], NULL);
  release(served);
  return 0;
}
