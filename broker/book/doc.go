// Package book is the market's order book: an index in memory that answers "the cheapest k offers that fit" exactly, in
// microseconds, over a million offers that change all the time.
//
// # Format
//
// An offer slot is a [Record] of 64 bytes in a page of records. A slot that can be leased is also in a ladder of its
// (model, GPU count), its cell; in a large cell it is in a second, smaller one of its region. A ladder is a directory of
// leaves that is sorted by (price, slot); a leaf holds a run of it, also sorted: at most 256 slots in a cell's ladder, at
// most 64 in a region's. A leaf is
//
//	slots   [n]uint32       the slots, cheapest first
//	codes   [n]uint32       their prices as float32 bits, which order as prices do
//	planes  [rows][n bits]  one bit of every slot's attributes each, bit i of every plane for slot i
//
// The planes are the transposed [row] of a record: a number of 4 to 7 bits per numeric attribute, one bit per flag and
// 8 bits of region. The number is a level: a float of few bits that never falls when the attribute grows, so "at least
// b" implies "level at least level(b)". A comparison of all slots of a leaf with a constant is then one AND or OR per
// plane (BitWeaving/V, Li and Patel, SIGMOD 2013). Levels admit too many and never too few; whatever they admit is
// checked on its record. The directory also has each leaf's zone: the best levels in it of what a job's cost depends on
// most. One of these numbers is no attribute but follows from several, [Fetch]: no slot of a leaf is likely to be the best in
// both traffic and speed, and what it costs to receive a job's bytes is the two together.
//
// A search merges the leaves of all ladders that it may need by a lower bound of what their slots cost, and ends when
// the lowest bound left is no better than the k-th best found. When it ranks by a job's cost, the k-th best also limits
// what each attribute may be in a leaf, and the planes are asked for these limits as for the query's own. So its answer
// is exact, unless it says that it is partial because it looked at [MaxLeaves] leaves or [MaxRecords] records.
//
// # Invariants
//
//   - A slot is in its ladders exactly when it is live: not rented, removed or expired.
//   - Ladders are sorted by (price, slot), a directory's entry is the key of its leaf's first slot, and no leaf is empty.
//   - A zone is what the planes of its leaf say.
//   - Bits of a plane past the last slot are zero.
//   - A slot's site level is at least that of the live slots on its site, and less than two above.
//   - Nothing that grows with the number of offers holds a pointer, so the garbage collector does not look at it.
//
// # Concurrency
//
// All methods may be called at the same time. One RWMutex guards what searches read, so that an answer is the exact
// answer at one instant over all models and sites; a lock per model would need all of them for a query of any model,
// and sites reach over models. A search holds it for microseconds, at worst until its budget is used (about a
// millisecond); a writer that must not wait that long for each change uses [Index.Apply]. Heartbeats ([Index.Touch])
// take no lock that a search holds.
package book
