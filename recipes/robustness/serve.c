/* Serves requests by TensorFlow's C API, as servers do: one SavedModel, one session, any number of threads.

   serve FOLDER INPUT:0 OUTPUT:0 float32|uint8 HEIGHT WIDTH CHANNELS THREADS EVERY IMAGES REQUESTS ANSWERS SECONDS

   Four files of raw values in row-major order, of which the last two are there beforehand, filled with "not a number":
     IMAGES    all that may be asked for
     REQUESTS  three int64 each: the first image, how many, and the row of its answer
     ANSWERS   a row of float32 for every image of every request
     SECONDS   a float64 for every request; one that fails stays as it was

   Before the first request, after every EVERY and after the last it prints how many are done, the seconds since the first,
   and the KiB that are resident and those that are in use: what malloc has given out and not got back. The messages of the
   first failures go to standard error. Needs Linux and glibc 2.33. */
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
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

static TF_Session *session;
static TF_Output input, output;
static int64_t sides[3];
static size_t image_bytes, requests_count, every;
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
  printf("%zu %.3f %ld %zu\n", requests_done, now() - begun, resident * page, (heap.uordblks + heap.hblkhd) / 1024);
  fflush(stdout);
}

static void answer(size_t index, TF_Status *status) {
  struct request request = requests[index];
  int64_t shape[] = {request.count, sides[0], sides[1], sides[2]};
  double start = now();
  TF_Tensor *batch = TF_AllocateTensor(TF_OperationOutputType(input), shape, 4, request.count * image_bytes), *found = NULL;
  memcpy(TF_TensorData(batch), images + request.first * image_bytes, request.count * image_bytes);
  TF_SessionRun(session, NULL, &input, &batch, 1, &output, &found, 1, NULL, 0, NULL, status);
  double seconds = now() - start;
  if (TF_GetCode(status) == TF_OK && (TF_NumDims(found) != 2 || TF_Dim(found, 0) != request.count))
    TF_SetStatus(status, TF_INTERNAL, "not one answer for each image");
  if (TF_GetCode(status) == TF_OK) {
    size_t bytes = TF_TensorByteSize(found);
    write_at(answers_file, TF_TensorData(found), bytes, bytes / request.count * request.row);
    write_at(seconds_file, &seconds, sizeof seconds, index * sizeof seconds);
  } else if (atomic_fetch_add(&failures, 1) < MESSAGES) {
    fprintf(stderr, "serve: request %zu: %s\n", index, TF_Message(status));
  }
  TF_DeleteTensor(batch);
  if (found != NULL) TF_DeleteTensor(found);
}

static void *serve(void *unused) {
  TF_Status *status = TF_NewStatus();
  for (size_t index; (index = atomic_fetch_add(&next_request, 1)) < requests_count;) {
    answer(index, status);
    size_t finished = atomic_fetch_add(&done, 1) + 1;
    if (finished % every == 0 || finished == requests_count) tell(finished);
  }
  pthread_barrier_wait(&all_done); /* A thread that ends gives back what malloc has kept for it. */
  TF_DeleteStatus(status);
  return unused;
}

int main(int count, char **arguments) {
  if (count != 14) fail("usage", "see the head of serve.c");
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  session = TF_LoadSessionFromSavedModel(options, NULL, arguments[1], tags, 1, graph, NULL, status);
  if (TF_GetCode(status) != TF_OK) fail(arguments[1], TF_Message(status));
  input = named(graph, arguments[2]), output = named(graph, arguments[3]);

  image_bytes = strcmp(arguments[4], "float32") == 0 ? sizeof(float) : 1;
  for (int axis = 0; axis < 3; axis++) image_bytes *= sides[axis] = atoll(arguments[5 + axis]);
  every = atol(arguments[9]);
  size_t bytes;
  images = read_all(arguments[10], &bytes);
  requests = read_all(arguments[11], &bytes);
  requests_count = bytes / sizeof *requests;
  answers_file = open_to_write(arguments[12]), seconds_file = open_to_write(arguments[13]);

  int threads_count = atoi(arguments[8]);
  pthread_t *threads = malloc(threads_count * sizeof *threads);
  pthread_barrier_init(&all_done, NULL, threads_count);
  begun = now();
  tell(0);
  for (int thread = 0; thread < threads_count; thread++)
    if (pthread_create(threads + thread, NULL, serve, NULL) != 0) fail("a thread", "cannot be started");
  for (int thread = 0; thread < threads_count; thread++) pthread_join(threads[thread], NULL);

  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
