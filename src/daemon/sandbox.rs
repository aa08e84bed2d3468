//! The second wall.
