"""What is read: texts, genomes and made sequences, split by document."""
