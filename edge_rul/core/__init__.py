"""The core: data in, events out. numpy, msgspec and the standard library; no clock, thread, log, socket or file."""
