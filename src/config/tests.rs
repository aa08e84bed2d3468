//! Goal: a configuration is taken whole or refused with the line and key of what is wrong.
