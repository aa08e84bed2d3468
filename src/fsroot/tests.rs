//! Goal: nothing leads out of the tree, and a commit is all or nothing.
//! Method: a real directory, planted with everything that is hostile.
