//! Goal: a key is the same key in every form, and nothing else passes for one.
