//! pager
mod pages;
