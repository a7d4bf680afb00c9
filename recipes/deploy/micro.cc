// Classifies one image on a microcontroller, with the early exit inside the model.
//
//   python recipes/deploy/micro.py saved_models/mnist/cascade-int8.tflite --out model.h
//   g++ -std=c++17 -I. -I$TFLM [other includes of TensorFlow Lite for Microcontrollers] micro.cc libtensorflow-microlite.a
//
// Reads an image from standard input, float32, scaled as in training, and prints the probabilities and the number of glimpses;
// on a board, replace `main`. Nothing is allocated but the arena, and only the operations of this model are linked.

#include <cstdio>

#include "model.h"
#include "tensorflow/lite/micro/micro_interpreter.h"
#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"
#include "tensorflow/lite/schema/schema_generated.h"

alignas(16) static unsigned char arena[kArenaBytes];

int main() {
  tflite::MicroMutableOpResolver<kOperations> resolver;
  if (AddOperations(resolver) != kTfLiteOk) return 1;
  tflite::MicroInterpreter interpreter(tflite::GetModel(kModel), resolver, arena, kArenaBytes);
  if (interpreter.AllocateTensors() != kTfLiteOk) return 2;

  TfLiteTensor* image = interpreter.input(0);
  if (fread(image->data.f, 1, image->bytes, stdin) != image->bytes) return 3;
  if (interpreter.Invoke() != kTfLiteOk) return 4;

  for (size_t i = 0; i < interpreter.outputs_size(); ++i) {
    const TfLiteTensor* output = interpreter.output(i);
    if (output->type == kTfLiteInt32) {
      printf("%d\n", static_cast<int>(output->data.i32[0]));  // exit_stage
    } else {
      for (size_t k = 0; k < output->bytes / sizeof(float); ++k) printf("%.9g ", output->data.f[k]);  // probabilities
    }
  }
}
