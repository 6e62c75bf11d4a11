"""What a model costs: static (parameters, disk, MACs), training and inference (time, memory, energy).

Everything here measures; nothing here knows what a run is or in which order things are measured.
"""
