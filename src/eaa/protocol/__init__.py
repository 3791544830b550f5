"""What goes over an attested connection: the messages, the exchange, and the exchange of 2021."""
