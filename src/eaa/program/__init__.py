"""What every program shares: addresses, files, options, answers, exit codes, sockets."""
