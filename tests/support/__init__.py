"""What tests share: brokers as child processes, a TCP proxy that breaks connections, and waiting with a deadline."""
