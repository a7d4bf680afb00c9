"""What is computed on images and places: geometry, crops, thumbnails, and the form that a runtime needs."""
