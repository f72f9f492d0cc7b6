"""What proposes the next plan, one file each; ``base`` says what a sampler is and what it is told."""
