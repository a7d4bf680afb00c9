/* Loads a SavedModel by TensorFlow's C API, as servers do, and runs one batch through it.

   serve FOLDER INPUT:0 OUTPUT:0 IMAGES.bin ANSWER.bin float32|uint8 BATCH HEIGHT WIDTH CHANNELS

   The files hold raw values, in row-major order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void fail(const char *what, const char *why) {
  fprintf(stderr, "serve: %s: %s\n", what, why);
  exit(1);
}

static void check(TF_Status *status, const char *what) {
  if (TF_GetCode(status) != TF_OK) fail(what, TF_Message(status));
}

/* The tensor called "operation:index". */
static TF_Output named(TF_Graph *graph, const char *name) {
  char operation[256];
  int index = 0;
  if (sscanf(name, "%255[^:]:%d", operation, &index) < 1) fail(name, "not the name of a tensor");
  TF_Output output = {TF_GraphOperationByName(graph, operation), index};
  if (output.oper == NULL) fail(name, "no such tensor");
  return output;
}

static TF_Tensor *read_images(const char *path, const char *type, char **sides) {
  int64_t shape[4], count = 1;
  for (int axis = 0; axis < 4; axis++) count *= shape[axis] = atoll(sides[axis]);
  int is_float = strcmp(type, "float32") == 0;
  size_t bytes = count * (is_float ? sizeof(float) : 1);
  TF_Tensor *images = TF_AllocateTensor(is_float ? TF_FLOAT : TF_UINT8, shape, 4, bytes);
  FILE *file = fopen(path, "rb");
  if (file == NULL || fread(TF_TensorData(images), 1, bytes, file) != bytes) fail(path, "cannot be read");
  fclose(file);
  return images;
}

int main(int count, char **arguments) {
  if (count != 11) fail("usage", "FOLDER INPUT OUTPUT IMAGES ANSWER TYPE BATCH HEIGHT WIDTH CHANNELS");
  TF_Status *status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session = TF_LoadSessionFromSavedModel(options, NULL, arguments[1], tags, 1, graph, NULL, status);
  check(status, arguments[1]);

  TF_Output input = named(graph, arguments[2]), output = named(graph, arguments[3]);
  TF_Tensor *images = read_images(arguments[4], arguments[6], arguments + 7), *answer = NULL;
  TF_SessionRun(session, NULL, &input, &images, 1, &output, &answer, 1, NULL, 0, NULL, status);
  check(status, "running");

  FILE *file = fopen(arguments[5], "wb");
  size_t bytes = TF_TensorByteSize(answer);
  if (file == NULL || fwrite(TF_TensorData(answer), 1, bytes, file) != bytes || fclose(file) != 0)
    fail(arguments[5], "cannot be written");

  TF_DeleteTensor(images);
  TF_DeleteTensor(answer);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
