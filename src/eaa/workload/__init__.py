"""The confidential container's server and its sample client."""
