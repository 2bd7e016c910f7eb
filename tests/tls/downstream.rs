//! The relay as a server of TLS.
