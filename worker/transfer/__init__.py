"""Between the device and the object store: inputs, outputs, previews, snapshots."""
