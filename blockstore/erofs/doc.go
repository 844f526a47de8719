// Package erofs writes the metadata of a file tree as an EROFS image: inodes, directories, symlinks and extended
// attributes, but no byte of a file. The files' data lie on further devices, at addresses that a [Placement] gives.
//
// The image is a function of the tree and the placement alone: equal input gives equal bytes, on every host.
// Nobody else's image is ever mounted, so the kernel parses only what this package wrote.
//
// # Format
//
// The block size is 4096. All numbers are little endian.
//
//	block 0   superblock at byte 1024, then the device table, which may go on through the following blocks
//	inodes    each 64 bytes (the extended form: full ids, size, and time with nanoseconds) at a multiple of 32,
//	          which is its number ("nid"), followed by its extended attributes and its tail
//	blocks    of directories and symlinks that have no room behind their inode
//
// A file's tail is its chunk index, 8 bytes a chunk: device number and block address. A directory or symlink of a
// size that shares a block with its inode is the inode's tail. The root is the first inode, because the superblock has
// 16 bits for its number. A further name of a file has the number of the first: that is a hard link.
//
// A directory is blocks of records, each block with the numbers first and the names behind them, sorted by the bytes
// of the names in the whole directory. The kernel searches by halving, so "." and ".." stand where they sort, which
// is not always first: "+x" and "!x" come before them.
package erofs
