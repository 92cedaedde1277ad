"""HTTP: metrics and health for machines, the status page for people. Imported only where `http` is configured."""
