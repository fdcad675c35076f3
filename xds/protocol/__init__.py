"""The xDS transport protocol as pure objects: values in, values out, time passed in."""
