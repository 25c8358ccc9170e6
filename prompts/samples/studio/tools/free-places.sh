#!/bin/sh
# Prints how many places of the class are free.
places=18
taken=`cat classes/hip-hop/students.csv | wc -l`
free=$((places-taken))
if [ $free > 0 ]; then
  echo $free places left
else
  echo full
fi
