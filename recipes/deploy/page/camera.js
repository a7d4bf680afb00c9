// A still from the camera, which is on only while its viewfinder is open.
const $ = selector => document.querySelector(selector);
const dialog = $("#viewfinder"), video = $("#viewfinder video");

export const available = Boolean(navigator.mediaDevices?.getUserMedia);  // Not without https, except on this machine.

export async function takePicture() {
  const wanted = {facingMode: "environment", width: {ideal: 1920}, height: {ideal: 1080}};
  video.srcObject = await navigator.mediaDevices.getUserMedia({video: wanted});
  try {
    await video.play();
    dialog.showModal();
    return await pressed();
  } finally {
    dialog.close();
    for (const track of video.srcObject.getTracks()) track.stop();
    video.srcObject = null;
  }
}

// The still, or nothing if the viewfinder is closed without one.
const pressed = () => new Promise((resolve, reject) => {
  $("#shoot").onclick = () => createImageBitmap(video).then(resolve, reject);
  $("#cancel").onclick = dialog.onclose = () => resolve();
});
